"""Winograd's forms against their definition, their ranges against extremes, and their kernels against the reference."""

import itertools

import numpy as np
import pytest

from compile.lowering.lower import lower, run_compiled
from runtime.machine import cpu
from targets import TargetError, find
from targets.cpu.epilogue import Epilogues, bound
from targets.cpu.winograd.forms import FOUR, TWO, Tiling
from targets.cpu.winograd.kernel import arrange, winograd
from targets.cpu.winograd.plan import Bands, Multiplier, at_once
from targets.kernel import Step
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Conv, Tensor
from targets.schedule import lay_out
from targets.x86.winograd import byte_chain, cost, direct_cost, plans
from tests.support.graph_builder import Builder
from tests.support.graphs import pictures
from tests.support.rules import set_rules
from tests.targets.x86.test_kernels_x86 import in_process

pytestmark = pytest.mark.slow

FORMS = (TWO, FOUR)
TILINGS = [Tiling(down, across) for down in FORMS for across in FORMS]
TARGETS = {"x86:avx2": (False, 16), "x86:avx512-vnni": (True, 32)}
same = lambda x: x  # noqa: E731


@pytest.fixture(params=TARGETS)
def target(request):
    found = find(request.param)
    missing = set(found.requires) - cpu.features()
    if missing:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}, which {found.name} needs")
    return found


@pytest.mark.parametrize("form", FORMS)
def test_form_is_minimal_filtering(form):
    """A^T ((G g) * (B^T d)) is factors * the sliding sums, for a basis of codes and of weights."""
    for d in np.eye(form.inputs, dtype=np.int64):
        for g in np.eye(3, dtype=np.int64):
            outputs = form.sums @ ((form.weights @ g) * (form.codes @ d))
            np.testing.assert_array_equal(outputs, form.factors * np.correlate(d, g, "valid"))
    assert form.inputs == form.outputs + 2


@pytest.mark.parametrize("form", FORMS)
def test_short_additions_equal_the_matrices(form):
    for values in np.eye(form.inputs, dtype=np.int64):
        np.testing.assert_array_equal(form.apart(list(values), same), form.codes @ values)
        np.testing.assert_array_equal(form.together(list(values), same), form.sums @ values)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("qmax", [3, 15, 255])
def test_ranges_are_reached_and_never_left(tiling, qmax):
    rng, matrix = np.random.default_rng(0), np.kron(tiling.down.codes, tiling.across.codes)
    least, most = tiling.ranges(qmax)
    np.testing.assert_array_equal(matrix @ np.where(matrix > 0, qmax, 0).T, matrix @ np.where(matrix.T > 0, qmax, 0))
    reached = np.array([matrix @ np.where(row > 0, qmax, 0) for row in matrix]).max(0)
    np.testing.assert_array_equal(reached, most)
    np.testing.assert_array_equal(np.array([matrix @ np.where(row < 0, qmax, 0) for row in matrix]).min(0), least)
    random = matrix @ rng.integers(0, qmax + 1, (matrix.shape[1], 1000))
    assert (random >= least[:, None]).all() and (random <= most[:, None]).all()
    intermediate = np.abs(tiling.down.codes).sum(1).max() * qmax  # one dimension done: int16 as well
    assert max(-least.min(), most.max(), intermediate) < 1 << 15


def test_codes_of_six_bits_fit_bytes_in_two_by_two_and_no_more():
    multiplier = Multiplier("", "uint8", 16, 4, 16, 4, 4, None)
    for tiling, widest in ((TILINGS[0], 6), (TILINGS[1], 3), (TILINGS[3], 0)):
        for bits in range(2, 9):
            offsets = multiplier.offsets(tiling, (1 << bits) - 1)
            assert (offsets is not None) == (bits <= widest)
            if offsets is not None:
                least, most = tiling.ranges((1 << bits) - 1)
                assert (least + offsets >= 0).all() and (most + offsets <= 255).all()


@pytest.mark.parametrize("tiling", TILINGS)
def test_largest_products_of_int16_pairs_fit_int32(tiling):
    """vpmaddwd and vpdpwssd add two products before anything can wrap around."""
    least, most = tiling.ranges(255)
    u = np.abs(np.kron(tiling.down.weights, tiling.across.weights)).sum(1) * 128
    assert u.max() < 1 << 15
    assert (2 * np.maximum(-least, most) * u).max() < 1 << 31


@pytest.mark.parametrize("w_bits,a_bits", [(4, 4), (2, 2), (3, 6), (4, 2)])
def test_byte_chain_never_exceeds_int16_and_is_no_shorter_than_it_could_be(w_bits, a_bits):
    rng, half, largest = np.random.default_rng(0), 1 << (w_bits - 1), 4 * ((1 << a_bits) - 1)
    u = arrange(TILINGS[0].transform(rng.integers(-half, half, (24, 3, 3, 200)).astype(np.int8)), 16, 4, 4)
    chain = byte_chain(u, largest)
    pairs = u.reshape(*u.shape[:3], -1, 2)
    ends = [np.maximum(pairs, 0).sum(-1) * largest, -np.minimum(pairs, 0).sum(-1) * largest]

    def runs(n):
        return np.lib.stride_tricks.sliding_window_view(ends, n, axis=3).sum(-1).max()

    assert chain >= 1 and runs(chain) <= (1 << 15) - 1
    assert chain == u.shape[2] or runs(chain + 1) > (1 << 15) - 1


@pytest.mark.parametrize("tiles,size,blocks", [((1, 1), 1, 1), ((7, 7), 18000, 16), ((4, 60), 900, 3), ((5, 2), 99, 4)])
def test_bands_cover_every_tile_once(tiles, size, blocks):
    b = Bands.of(tiles, size, blocks)
    assert b.rows * b.bands >= b.height > b.rows * (b.bands - 1) and blocks % b.shares == 0
    assert b.columns * -(-b.width // b.columns) >= b.width
    for most in (2, 6, 8):
        assert 1 <= at_once(b.rows * b.columns, most) <= most


def _step(node, placed):
    return Step(node, tuple(placed[n] for n in node.inputs), placed[node.output])


def lowered_with(graph, target, monkeypatch, epilogues, plans, first):
    """With Winograd wherever it applies: the plans of a step take turns, from number `first` on."""
    turn = itertools.count(first)

    def forced(step, epilogues):
        found = plans(step) if isinstance(step.node, Conv) else []
        return winograd(found[next(turn) % len(found)], epilogues) if found else None

    with monkeypatch.context() as patch:
        set_rules(patch, target.family, lambda _, own: [bound(forced, epilogues), *own])
        return lower(graph, target)


def served(lowered):
    return {c.kernel.rule.split(" chain")[0] for c in lowered.calls if c.kernel.rule.startswith("Winograd")}


def assert_equal(graph, target, monkeypatch, x, first):
    """Returns the rules that served."""
    every = lambda step: plans(step, *TARGETS[target.name])  # noqa: E731
    lowered = lowered_with(graph, target, monkeypatch, Epilogues(), every, first)
    np.testing.assert_array_equal(run_compiled(lowered, in_process(lowered, target), x), interpreter.run(graph, x))
    return served(lowered)


def network(seed, w_bits, extreme):
    """3x3 convolutions of stride 1 behind codes of every width.

    With an odd size, ragged channels, unequal padding, residual operands, and copies in other widths.
    """
    rng = np.random.default_rng(seed)
    size = tuple(int(s) for s in rng.integers(5, 12, 2))
    b = Builder(f"winograd{seed}", rng, size, bool(seed % 2), extreme, [w_bits])
    x = b.conv(b.input, int(rng.choice((5, 10, 17))), kernel=1, padding=(0,) * 4, signed=bool(seed % 3 == 0))
    for a_bits in range(2, 9):
        channels, kept = int(rng.choice((3, 5, 10, 16, 17, 24, 33))), a_bits in (4, 8)
        padding = (1,) * 4 if kept else [(1, 1, 0, 1), (0, 1, 1, 1), (1, 0, 1, 1)][rng.integers(3)]
        x = b.rescale(x, bits=a_bits)
        x = b.conv(x, b.tensors[x].shape[2] if kept else channels, kernel=3, padding=padding, skip=x if kept else None)
    return b.finish(x)


@pytest.mark.parametrize("w_bits", range(2, 9))
def test_every_width(target, w_bits, monkeypatch):
    graph = network(w_bits, w_bits, extreme=w_bits % 2 == 0)
    assert assert_equal(graph, target, monkeypatch, pictures(graph, 4, w_bits), w_bits)


def single(h, w, cin, cout, w_bits, a_bits, weight, padding=(1,) * 4) -> Graph:
    node = Conv(
        "c",
        "image",
        "out",
        weight.astype(np.int8),
        w_bits,
        np.arange(cout) - 5,
        np.ones(cout, np.float32),
        padding=padding,
    )
    shape = (h + padding[0] + padding[2] - 2, w + padding[1] + padding[3] - 2, cout)
    tensors = {t.name: t for t in (Tensor("image", (h, w, cin), a_bits), Tensor("out", shape, 32))}
    return Graph("single", tensors, (node,), "image", "out")


@pytest.mark.parametrize("h,w,expected", [(1, 1, 0), (2, 2, 2), (2, 5, 2), (4, 3, 3), (4, 4, 4), (5, 7, 4)])
def test_every_size(target, h, w, expected, monkeypatch):
    """A map smaller than a tile is left to other rules; every larger one works with each plan."""
    rng = np.random.default_rng(h * 16 + w)
    graph = single(h, w, 17, 24, 4, 4, rng.integers(-8, 8, (24, 3, 3, 17)))
    x = rng.integers(0, 16, (2, h, w, 17), np.uint8)
    rules = set().union(*(assert_equal(graph, target, monkeypatch, x, k) for k in range(max(1, expected))))
    assert len(rules) == expected


@pytest.mark.parametrize(
    "w_bits,a_bits,plan", [(8, 8, 0), (8, 8, 1), (8, 8, 2), (4, 4, 0), (4, 6, 0), (3, 3, 2), (8, 2, 0)]
)
def test_largest_sums(target, w_bits, a_bits, plan, monkeypatch):
    """Weights at qmin, at qmax, alternating and at random; codes at 0, at qmax, alternating and at random."""
    half, shape, rng = 1 << (w_bits - 1), (8, 3, 3, 40), np.random.default_rng(w_bits)
    signs, qmax = np.indices(shape).sum(0) % 2, (1 << a_bits) - 1
    x = np.zeros((5, 7, 6, 40), np.uint8)
    x[1], x[2], x[3] = qmax, qmax * (np.indices(x.shape[1:]).sum(0) % 2), qmax * rng.integers(0, 2, x.shape[1:])
    x[4] = rng.integers(0, qmax + 1, x.shape[1:])
    weight = np.concatenate(
        [
            np.full(shape, -half),
            np.full(shape, half - 1),
            np.where(signs, -half, half - 1),
            rng.choice([-half, half - 1], shape),
        ]
    )
    assert assert_equal(single(7, 6, 40, 32, w_bits, a_bits, weight), target, monkeypatch, x, plan)


def test_sums_that_could_not_be_divided_are_left_to_others():
    """The power of two in a tiling's factors, 64, 16 or 4, times the largest sum must fit 31 bits."""
    for channels, names in ((32, ["2x2", "4x2", "4x4"]), (256, ["2x2", "4x2"]), (1024, ["2x2"]), (2048, [])):
        graph = single(8, 8, channels, 16, 8, 8, np.full((16, 3, 3, channels), 127))
        found = plans(_step(graph.nodes[0], lay_out(graph)), True, 32)
        assert [p.multiplier.rule.split()[1] for p in found] == names


@pytest.mark.parametrize("tiling", TILINGS)
def test_every_row_is_written_by_one_row_of_tiles(tiling):
    """As in the kernel: the last tiles overlap those before and leave out what is not theirs."""
    m = tiling.outputs[0]
    for height in range(m, 30):
        tiles = range(tiling.tiles((height, 9, 1))[0])
        rows = [y for i in tiles for y in range(min(i * m, height - m), min(i * m, height - m) + m) if y >= i * m]
        assert rows == list(range(height))


def test_scratch_fits_the_stack():
    for channels in (64, 512, 2048, 8192):
        graph = single(30, 30, channels, 16, 2, 2, np.zeros((16, 3, 3, channels)))
        found = plans(_step(graph.nodes[0], lay_out(graph)), True, 32)
        assert all(p.held * p.tiling.positions * (p.channels * p.multiplier.bytes + 64) <= 1 << 19 for p in found)
        assert bool(found) == (channels < 8192)


def test_cost_decides_as_measured():
    """What the fit must keep: byte tiles for 4 bits, larger tiles for 2 and for 8, and none on the smallest maps."""
    choice = {}
    for size, channels, bits in ((28, 128, 8), (28, 128, 4), (28, 128, 2), (2, 64, 8)):
        half = 1 << (bits - 1)
        weight = np.rint(np.random.default_rng(0).normal(0, half / 2.5, (channels, 3, 3, channels)))
        graph = single(size, size, channels, channels, bits, bits, np.clip(weight, -half, half - 1))
        step = _step(graph.nodes[0], lay_out(graph))
        plan = min(plans(step, True, 32), key=cost)
        choice[size, bits] = plan.multiplier.rule if cost(plan) < direct_cost(step, True) else None
    assert choice == {
        (28, 8): "Winograd 4x4 of int16",
        (28, 4): "Winograd 2x2 of bytes, dot product",
        (28, 2): "Winograd 4x2 of bytes, dot product",
        (2, 8): None,
    }


@pytest.mark.parametrize(
    "name,w_bits", [("arm:cortex-a76", 2), ("arm:cortex-a76", 4), ("arm:cortex-a72", 3), ("arm:cortex-a72", 8)]
)
def test_arm(name, w_bits, monkeypatch, tmp_path):
    """On emulated processors."""
    from targets.arm import toolchain
    from targets.arm.epilogue import EPILOGUES
    from targets.arm.winograd import plans

    try:
        toolchain.linker()
    except TargetError as error:
        pytest.skip(f"no linker for aarch64: {error}")
    target, graph = find(name), network(w_bits, w_bits, extreme=w_bits == 4)
    every = lambda step: plans(step, "asimddp" in target.requires)  # noqa: E731
    lowered = lowered_with(graph, target, monkeypatch, EPILOGUES, every, w_bits)
    assert served(lowered)
    toolchain.build([lowered.module], target, tmp_path / "net.so", tmp_path)
    x = pictures(graph, 3, w_bits)
    got = run_compiled(lowered, toolchain.runner(tmp_path / "net.so", target), x)
    np.testing.assert_array_equal(got, interpreter.run(graph, x))


def test_arm_chain_never_exceeds_int16_and_is_no_shorter_than_it_could_be():
    from targets.arm.winograd import longest_chain

    rng, (least, most) = np.random.default_rng(0), TILINGS[0].ranges(15)
    u, largest = TILINGS[0].transform(rng.integers(-8, 8, (24, 3, 3, 200))), np.maximum(-least, most)
    chain, products = longest_chain(u, largest), np.abs(u) * largest[:, None, None]
    runs = lambda n: np.lib.stride_tricks.sliding_window_view(products, n, axis=2).sum(-1).max()  # noqa: E731
    assert runs(chain) < 1 << 15 <= runs(chain + 1)
