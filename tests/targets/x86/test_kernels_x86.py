"""x86 kernels against the integer reference, bit for bit, on random networks of every operator and width."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compile.lowering.lower import lower, run_compiled
from compile.lowering.plan import workspace
from runtime.machine import cpu
from targets import find
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Conv, Rescale, Tensor
from targets.reference.scales import requant_from_ratio
from targets.x86 import kernels
from targets.x86.multiply_add import arrange, longest_chain
from targets.x86.split import split
from tests.support.graphs import FOREIGN_OPS, OPS, pictures, quantized_to_the_end, random_graph, resnet_like
from tests.support.rules import set_rules

pytestmark = pytest.mark.slow

tvm_ffi = pytest.importorskip("tvm_ffi")


def in_process(lowered, target):
    """Compiles a lowered network in memory; a runner for run_compiled."""
    import tvm

    from runtime.abi import aligned_buffer

    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
        main = tvm.compile(lowered.module, target=tvm.target.Target(target.tvm)).mod["main"]

    def runner(x, weights, table, workspace_bytes, classes):
        buffers = [
            aligned_buffer(n, d)
            for n, d in (
                (x.size, "uint8"),
                (weights.size, "int8"),
                (table.size, "int32"),
                (workspace_bytes, "uint8"),
                (classes, "int32"),
            )
        ]
        for buffer, values in zip(buffers, (x, weights, table), strict=False):
            buffer[:] = values
        buffers[3][:] = 0xA5  # stale bytes must not matter
        main(*(tvm_ffi.from_dlpack(b) for b in buffers))
        return buffers[4].copy()

    return runner


TARGETS = ("x86:avx2", "x86:avx-vnni", "x86:avx512-vnni")


@pytest.fixture(params=TARGETS)
def target(request):
    found = find(request.param)
    missing = set(found.requires) - cpu.features()
    if missing:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}, which {found.name} needs")
    return found


def assert_equal(graph, target, seed=0, n=5):
    lowered = lower(graph, target)
    x = pictures(graph, n, seed)
    np.testing.assert_array_equal(run_compiled(lowered, in_process(lowered, target), x), interpreter.run(graph, x))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), tie_free=st.booleans(), extreme=st.booleans())
def test_random_networks(target, seed, tie_free, extreme):
    assert_equal(random_graph(seed, tie_free=tie_free, extreme=extreme), target, seed)


@pytest.mark.parametrize("op", OPS + FOREIGN_OPS)
def test_each_operator(target, op):
    for seed in range(3):
        assert_equal(random_graph(seed, ops=(op, op), tie_free=op in OPS), target, seed)


@pytest.mark.parametrize("bits", range(2, 9))
def test_each_width(target, bits):
    assert_equal(resnet_like(((bits, bits), (bits, 8), (8, bits))), target, bits)


def one_layer(seed, cin, cout, kernel, w_bits, a_bits, size=(7, 9), stride=1, extreme=False, zero_point=0, bits=None):
    """A convolution that reads the picture's codes, and a sum of all it writes; ratios over odd integers."""
    rng, half = np.random.default_rng(seed), 1 << (w_bits - 1)
    shape = (cout, kernel, kernel, cin)
    weight = np.clip(np.rint(rng.normal(0, half / 3, shape)), -half, half - 1).astype(np.int64)
    if extreme:
        weight = rng.choice([-half, half - 1], shape)
    conv = dict(weight=weight.astype(np.int8), w_bits=w_bits, stride=(stride, stride), padding=(kernel // 2,) * 4)
    image = Tensor("image", (*size, cin), a_bits, zero_point=(zero_point,))
    h, w = (-(-n // stride) for n in size)
    bits = bits or a_bits
    reach = np.abs(weight).sum((1, 2, 3)) * image.qmax
    ratio = requant_from_ratio(((1 << bits) - 1) / np.maximum(reach / 4, 1), 10)
    step = 2 * np.floor(np.exp2(ratio.left) * reach / 8 / ((1 << bits) - 1)) + 1
    ratio = requant_from_ratio(np.exp2(ratio.left) / step, 10)
    bias = rng.integers(-1000, 1000, cout)
    ones = np.ones(cout, np.float32)
    nodes = (
        Conv("conv", "image", "codes", bias=bias, w_scale=ones, requant=ratio, qmax=(1 << bits) - 1, **conv),
        Conv("sums", "codes", "out", np.eye(cout, dtype=np.int8)[:, None, None], 2, np.zeros(cout, np.int64), ones),
    )
    tensors = (image, Tensor("codes", (h, w, cout), bits), Tensor("out", (h, w, cout), 32))
    return Graph("layer", {t.name: t for t in tensors}, nodes, "image", "out")


def assert_layer(graph, target, rule):
    """Every code of a layer that must be served by the rule, on random and extreme codes."""
    lowered = lower(graph, target)
    assert lowered.calls[1].kernel.rule.startswith(rule)
    qmax = graph.tensors["image"].qmax
    x = pictures(graph, 5, 0)
    x = np.where(x > qmax, x & qmax, x).astype(np.uint8)
    np.testing.assert_array_equal(run_compiled(lowered, in_process(lowered, target), x), interpreter.run(graph, x))


@pytest.fixture
def direct(monkeypatch):
    """Without Winograd's rules, which would take these layers."""
    set_rules(monkeypatch, "x86", lambda _, own: [r for r in own if not r.__name__.startswith("winograd")])


@pytest.mark.parametrize("a_bits", (2, 3))
@pytest.mark.parametrize("cin,cout,kernel,stride", [(16, 32, 3, 1), (6, 64, 3, 2), (32, 96, 1, 1), (8, 128, 5, 1)])
@pytest.mark.parametrize("extreme", (False, True))
def test_look_up(a_bits, cin, cout, kernel, stride, extreme, direct):
    zero_point = 1 if cin == 6 else 0
    graph = one_layer(a_bits, cin, cout, kernel, 2, a_bits, stride=stride, extreme=extreme, zero_point=zero_point)
    short = a_bits == 3 and (extreme or cin == 8)  # runs in int8 may be too short to pay
    assert_layer(graph, find("x86:avx2"), "" if short else "look-up")


@pytest.mark.parametrize("cin,cout,kernel,stride", [(3, 17, 3, 1), (16, 32, 3, 2), (40, 24, 1, 1)])
def test_split_weights(cin, cout, kernel, stride):
    """Few pairs of weights that leave int16: they are cut, and the sums stay exact up to all codes at 255."""
    assert_layer(one_layer(cin, cin, cout, kernel, 8, 8, stride=stride), find("x86:avx2"), "multiply-add, split")


def test_too_many_large_weights_are_widened(direct):
    graph = one_layer(0, 16, 24, 3, 8, 8, extreme=True)
    assert_layer(graph, find("x86:avx2"), "multiply-add, widened")


@given(seed=st.integers(0, 10**6), spread=st.integers(1, 60))
def test_both_parts_of_split_weights_fit(seed, spread):
    rng = np.random.default_rng(seed)
    weight = arrange(np.clip(np.rint(rng.normal(0, spread, (17, 3, 3, 5))), -128, 127).astype(np.int8))
    parts = split(weight, 255)
    if parts is not None:
        total, sums = parts.first.astype(np.int64), lambda w: w.astype(np.int64).reshape(*w.shape[:-1], 2, 2)
        for h, (start, end) in enumerate(zip(parts.starts, parts.starts[1:], strict=False)):
            for (dy, k), extra in zip(parts.positions[start:end], parts.extra[start:end], strict=True):
                total[h // 2, dy, k, h % 2] += extra
        np.testing.assert_array_equal(total, weight)
        for w in (parts.first, parts.extra):
            assert np.maximum(sums(w), 0).sum(-1).max(initial=0) * 255 <= 32767
            assert np.minimum(sums(w), 0).sum(-1).min(initial=0) * 255 >= -32768


@pytest.mark.parametrize("seed", range(4))
def test_codes_from_picture_to_output(target, seed):
    assert_equal(quantized_to_the_end(seed), target, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_every_rule_is_used(name):
    expected, used = kernels.rules(find(name)), set()
    two_bits = one_layer(0, 16, 64, 3, 2, 2)
    for graph in (two_bits, quantized_to_the_end(0), *(random_graph(1, ops=(op,)) for op in OPS + FOREIGN_OPS)):
        for call in lower(graph, find(name)).calls:
            used.add(next(rule.__name__ for rule in expected if rule(call.step) is not None))
    assert used == {rule.__name__ for rule in expected}


@pytest.mark.parametrize("w_bits,a_bits,chain", [(8, 8, 0), (8, 7, 1), (4, 4, 36), (2, 8, 12), (7, 8, 1), (4, 8, 8)])
def test_largest_accumulators(target, w_bits, a_bits, chain):
    """Weights all at qmin, all at qmax and alternating, codes all at qmax."""
    half, shape = 1 << (w_bits - 1), (16, 3, 3, 16)
    signs = np.indices(shape).sum(0) % 2
    for weight in (np.full(shape, -half), np.full(shape, half - 1), np.where(signs, -half, half - 1)):
        node = Conv(
            "c",
            "image",
            "out",
            weight.astype(np.int8),
            w_bits,
            np.zeros(16, np.int64),
            np.ones(16, np.float32),
            padding=(1,) * 4,
        )
        tensors = {t.name: t for t in (Tensor("image", (7, 5, 16), a_bits), Tensor("out", (7, 5, 16), 32))}
        graph = Graph("extreme", tensors, (node,), "image", "out")
        assert longest_chain(arrange(node.weight), (1 << a_bits) - 1) >= chain
        x = np.full((1, 7, 5, 16), (1 << a_bits) - 1, np.uint8)
        lowered = lower(graph, target)
        np.testing.assert_array_equal(run_compiled(lowered, in_process(lowered, target), x), interpreter.run(graph, x))


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_and_tie_of_rescale(bits):
    """All 256 codes through ratios that put many of them exactly on a tie."""
    for ratio in (0.5, 0.25, 1.5, 1 / 3, 1 / (1 << (9 - bits)), 3.0):
        image, codes = Tensor("image", (16, 16, 3)), Tensor("codes", (16, 16, 3), bits)
        rescale = Rescale("r", "image", "codes", requant_from_ratio(ratio), 0, codes.qmax)
        weight = np.array([[[[1, 2, 3]]]], np.int8)
        out = Conv("linear", "codes", "out", weight, 3, np.zeros(1, np.int64), np.ones(1, np.float32))
        tensors = {t.name: t for t in (image, codes, Tensor("out", (16, 16, 1), 32))}
        graph = Graph("ties", tensors, (rescale, out), "image", "out")
        x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
        lowered = lower(graph, find("x86:avx2"))
        got = run_compiled(lowered, in_process(lowered, find("x86:avx2")), x)
        np.testing.assert_array_equal(got, interpreter.run(graph, x))
        exact = np.minimum(np.floor(np.arange(256) * np.float64(ratio) + 0.5), codes.qmax)
        if ratio != 1 / 3:  # binary fractions: floating point gives the same ties
            np.testing.assert_array_equal(got[0], (exact * 6).astype(np.int32))


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 3)), min_size=1, max_size=25))
def test_tensors_that_live_together_never_overlap(sizes_and_spans):
    names = [f"t{i}" for i in range(len(sizes_and_spans))]
    sizes = {n: s for n, (s, _) in zip(names, sizes_and_spans, strict=True)}
    steps = [(tuple(names[max(0, i - sizes_and_spans[i][1]) : i]), (n,)) for i, n in enumerate(names)]
    offsets, total = workspace(sizes, steps)
    first = {n: i for i, n in enumerate(names)}
    last = {n: max([first[n], *(i for i, (reads, _) in enumerate(steps) if n in reads)]) for n in names}
    for a in names:
        assert offsets[a] % 64 == 0 and offsets[a] + sizes[a] <= total
        for b in names:
            if a < b and first[a] <= last[b] and first[b] <= last[a]:
                assert offsets[a] + sizes[a] <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
