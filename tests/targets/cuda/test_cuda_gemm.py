"""Convolutions on tensor cores, run on the CPU: every pair of widths, shape and tile equals the integer reference."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from compile.lowering import lower
from targets import find
from targets.cuda import routes, tiles
from targets.cuda.emulation import host
from tests.support.cuda_steps import codes, graph_of, input_of, steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "c++", "clang++"))),
        reason="no C++ compiler here to run the CUDA source with; apt install g++",
    ),
]
TARGET, BITS = find("cuda"), range(2, 9)
INPUTS, OUTPUTS = (3, 16, 20, 5, 32, 24, 17, 64), (8, 17, 24, 5, 16, 36)
SIZES = ((7, 9), (6, 5), (9, 4))


def conv(rng, a_bits: int, w_bits: int, inputs: int, outputs: int, kernel: int, stride: int, size, **options):
    """A network of one convolution."""
    b = input_of(rng, (*size, inputs), a_bits, [w_bits], extreme=bool(rng.integers(2)))
    return graph_of(
        b,
        b.conv("image", outputs, kernel=kernel, stride=stride, w_bits=w_bits, bits=int(rng.integers(2, 9)), **options),
    )


def of_width(a_bits: int, seed: int) -> dict:
    """A network of each weight width; shapes and kernels take turns with the seed."""
    rng, graphs = np.random.default_rng([a_bits, seed]), {}
    for w_bits in BITS:
        n = a_bits + 3 * w_bits + 5 * seed
        kernel, stride = (3, 1, 5, 3)[n % 4], (1, 2, 1)[n % 3]
        size = SIZES[n % 3] if kernel < 5 else SIZES[0]
        name = f"w{w_bits} {kernel}x{kernel}/{stride}"
        graphs[name] = conv(rng, a_bits, w_bits, INPUTS[n % 8], OUTPUTS[n % 6], kernel, stride, size)
    return graphs


def picture(seed: int, bits: int, count: int = 20000) -> np.ndarray:
    return codes(np.random.default_rng(seed), count, bits)


def assert_equal(found, folder, seed=0, arch=80):
    differing = {name: n for name, n in found.run(folder, seed, arch).items() if n}
    assert not differing


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("a_bits", BITS)
def test_every_pair_of_widths(tmp_path, a_bits, seed):
    found = steps(of_width(a_bits, seed), TARGET, picture(seed, a_bits))
    assert all("implicit gemm" in rules[-1] for rules in found.rules.values())
    assert_equal(found, tmp_path, seed, arch=(80, 90)[(a_bits + seed) % 2])


def fixed(monkeypatch, module, choices) -> None:
    """The module's choose() answers with these in turn."""
    choices = iter(choices)
    monkeypatch.setattr(module, "choose", lambda *_: next(choices))


@pytest.mark.parametrize("arch", (80, 90))
def test_every_route(tmp_path, monkeypatch, arch):
    """Narrow codes in every container and every storage that holds them."""
    rng, names = np.random.default_rng(arch), [r.name for r in routes.ROUTES]
    graphs = {name: conv(rng, 2, 2, 24, 17, 3, 1, (6, 5)) for name in names}
    fixed(monkeypatch, routes, routes.ROUTES)
    found = steps(graphs, TARGET, picture(1, 2))
    assert all(name in rules[-1] for name, rules in found.rules.items())
    assert_equal(found, tmp_path, arch, arch)


SHAPES = {(t.rows, t.columns, t.warps): t for t in tiles.TILES}


@pytest.mark.parametrize("part", range(2))
def test_every_tile(tmp_path, monkeypatch, part):
    """Each shape with another number of steps and stages; neither pixels nor channels fill the last tile."""
    rng = np.random.default_rng(part)
    chosen = [
        replace(t, steps=(1, 2)[i % 2], stages=(2, 3, 4)[i % 3]) for i, t in enumerate(list(SHAPES.values())[part::2])
    ]
    graphs = {f"{t}": conv(rng, 4, (4, 8)[i % 2], 16, 40, 3, 1, (9, 8)) for i, t in enumerate(chosen)}
    fixed(monkeypatch, tiles, chosen)
    assert_equal(steps(graphs, TARGET, picture(2, 4)), tmp_path, part)


@pytest.mark.parametrize("stages", (2, 3))
def test_many_stages_of_every_vector(tmp_path, monkeypatch, stages):
    """Runs on 16, 8 and 4 bytes and on none: what is loaded meets the stages that are still in use."""
    rng = np.random.default_rng(stages)
    graphs = {f"{n}": conv(rng, 8, 8, n, 9, 5, 1, (7, 6)) for n in (32, 24, 20, 17)}
    monkeypatch.setattr(tiles, "choose", lambda *_: tiles.Tile(16, 16, (1, 1, 2), 1, stages))
    assert_equal(steps(graphs, TARGET, picture(6, 8)), tmp_path, stages)


def test_several_pictures_at_once(tmp_path):
    """Their pixels share tiles; borders, residual operands and copies in other widths too."""
    rng, graphs = np.random.default_rng(5), {}
    for inputs, outputs in ((3, 12), (8, 17)):
        b = input_of(rng, (5, 4, inputs), 8)
        x = b.conv("image", outputs, kernel=3, padding=(1, 0, 1, 1), bits=8)
        y = b.conv(b.rescale(x, 4), outputs, kernel=3, padding=(1, 1, 1, 1), w_bits=4, skip=x)
        graphs[f"{inputs} {outputs}"] = graph_of(b, b.conv(y, 8, kernel=3, stride=2, padding=(1, 1, 0, 2)))
    assert_equal(steps(graphs, TARGET, picture(3, 8), pictures=3), tmp_path)


def test_more_pictures_need_kernels_for_them():
    b = input_of(np.random.default_rng(0), (4, 4, 3), 8)
    graph = graph_of(b, b.conv("image", 8))
    with pytest.raises(ValueError, match="x86:avx2: expected one picture at a time, got 2"):
        lower.lower(graph, find("x86:avx2"), 2)


@pytest.fixture(scope="module")
def two_routes():
    """A product of several stages in bytes, and one in nibbles; four warps share K, the last stage lies under sums."""
    rng, patch = np.random.default_rng(8), pytest.MonkeyPatch()
    graphs = {"bytes": conv(rng, 4, 8, 64, 24, 3, 1, (6, 6)), "nibbles": conv(rng, 4, 4, 64, 24, 3, 1, (6, 6))}
    patch.setattr(tiles, "choose", lambda *_: tiles.Tile(16, 16, (1, 1, 4), 1, 3))
    found = steps(graphs, TARGET, picture(4, 4))
    patch.undo()
    assert ["u8s8_w8" in found.rules["bytes"][-1], "u4s4_w4" in found.rules["nibbles"][-1]] == [True, True]
    return found


WAIT = r"tvm_builtin_ptx_cp_async_wait_group_async_wait_group_\d\(\);\s*"
WRONG = {
    "no barrier before a stage is used": (rf"({WAIT})__syncthreads\(\);", r"\1"),
    "no barrier before sums take its place": (rf"({WAIT})__syncthreads\(\);([^;]*;\s*\w+\[[^\n]* = unscale)", r"\1\2"),
    "no barrier before sums meet": (r"(= unscale[^\n]*\n\s*)__syncthreads\(\);", r"\1"),
    "no wait for copies": (rf"{WAIT}__syncthreads", "__syncthreads"),
    "too few groups of copies waited for": (r"wait_group [1-9];", "wait_group 9;"),
    "another sign": (r"\.u8\.s8\.s32", ".u8.u8.s32"),
    "another sign in nibbles": (r"\.u4\.s4\.s32", ".s4.s4.s32"),
    "rows exchanged": (r"w0 = a0, w1 = a1", "w0 = a1, w1 = a0"),
    "halves of K exchanged": (r"w4 = b0, w5 = b1", "w4 = b1, w5 = b0"),
    "a fragment's word too far": (r"(int\d? v_\d+ = [^\n]*threadIdx\.x)\) & 3\)", r"\1 + 1) & 3)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_code_is_caught(tmp_path, two_routes, name):
    """By wrong codes, or by sums so wrong that they overflow."""
    try:
        assert any(two_routes.run(tmp_path, seed=3, source=two_routes.changed(*WRONG[name])).values())
    except host.EmulationError as error:
        assert "signed overflow" in str(error)


def test_lanes_that_part_ways_are_caught(tmp_path, two_routes):
    apart = two_routes.changed(r"\n +(multiply_u8s8_w8\()", r"\n  if (threadIdx.x % 32 < 16) \1")
    with pytest.raises(host.EmulationError, match="some lanes of a warp miss an instruction of the whole warp"):
        two_routes.run(tmp_path, source=apart)


def test_copies_off_their_alignment_are_caught(tmp_path, two_routes):
    off = two_routes.changed(r"(async_cg_shared_global_16\([^\n]*\(&\(read0\[)", r"\g<1>4 + ")
    with pytest.raises(host.EmulationError, match="an asynchronous copy off its alignment in implicit_gemm"):
        two_routes.run(tmp_path, source=off)


def test_instructions_without_a_description_are_refused(tmp_path, two_routes):
    for old, new in ((r"\.row\.col\.", ".row.row."), (r"m16n8k32", "m16n8k16"), (r"\{%8, %9\}", "{%9, %8}")):
        with pytest.raises(host.EmulationError, match="expected no inline assembly, got .*mma.sync"):
            two_routes.run(tmp_path, source=two_routes.changed(old, new))


def test_the_route_of_fewest_instructions_is_chosen():
    few = np.full((8, 3, 3, 16), -2, np.int8)
    name = lambda w, a, k=1152: routes.choose(few, w, a, k).name  # noqa: E731
    assert [name(2, 2), name(3, 2), name(4, 4), name(2, 8), name(4, 5), name(8, 2)] == [
        "u4s4_w2",
        "u4s4_w4",
        "u4s4_w4",
        "u8s8_w2",
        "u8s8_w4",
        "u8s8_w8",
    ]
    on_bytes = [routes.choose(few, w, a, 1152, (8,)).name for w, a in ((2, 2), (4, 4), (5, 4))]
    assert on_bytes == ["u8s8_w2", "u8s8_w4", "u8s8_w8"]
    assert name(2, 2, 144) == "u4s4_w4"  # a chunk of 128 codes would be mostly padding
    large = np.full((1, 1, 1, 1 << 17), -2, np.int8)
    assert routes.choose(large, 2, 8, 1 << 17).name == "u8s8_w4"  # sums 64 times too large would not fit
    with pytest.raises(ValueError, match=r"expected sums below 2\*\*31"):
        routes.choose(np.full((1, 1, 1, 1 << 18), -128, np.int8), 8, 8, 1 << 18)


def test_tiles_fit_and_follow_the_work():
    route = routes.Route(8, 8)
    one, many = (tiles.choose(route, n * 49, 512, 4608, 16) for n in (1, 64))
    assert one.rows * one.columns < many.rows * many.columns
    for r in routes.ROUTES:
        for m in (1, 49, 3136, 200704):
            tile = tiles.choose(r, m, 64, 576, 132)
            assert 4 * tile.shared_words(r) <= tiles.SHARED_BYTES and tile.threads <= 256
            assert tile.warp_rows % 16 == 0 and tile.warp_columns % 8 == 0
