"""Lowering against the fake-quantized network it came from, and torch's integers against the reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import AvgPool, Conv, Rescale, Shortcut
from targets.reference.scales import LARGEST_Q, odd_ratio, tie_free
from tests.support.graphs import FOREIGN_OPS, pictures, quantized_to_the_end, random_graph, resnet_like
from train.integers.evaluate import evaluate
from train.integers.lowering import lower
from train.network.architectures import architecture
from train.network.network import Network

FIXED_SEEDS = range(12)


def network(arch_name: str, seed: int, size: int = 16, variants: int = 2) -> tuple[Network, torch.Tensor]:
    """A random network with living batch norms and calibrated variants of random widths, and pictures [24, H, W, 3]."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    arch = architecture(arch_name, (size, size, 3), 10)
    net = Network(arch, {})
    net.zero_point.copy_(torch.tensor([124, 116, 104]))
    images = torch.randint(0, 256, (24, size, size, 3), generator=generator, dtype=torch.uint8)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.weight.data.uniform_(0.4, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    with torch.no_grad():
        net.train()(images)
    net.eval()
    for v in range(variants):
        net.add_variant(
            f"v{v}",
            {layer.name: tuple(int(b) for b in rng.integers(2, 9, 2)) for layer in arch.layers} | {"conv1": (8, 8)},
        )
    net.calibrate(images)
    return net, images


@torch.no_grad()
def settle(net: Network, variant: str, graph: Graph) -> list[float]:
    """Moves the float network onto the graph's nudged scales and rounded biases; returns each scale's quotient."""
    moves = []
    for node in graph.nodes:
        scale, x_scale = graph.tensors[node.output].scale, graph.tensors[node.inputs[0]].scale
        if isinstance(node, (Rescale, AvgPool)):
            layer = "linear" if isinstance(node, AvgPool) else node.name.removesuffix(".input")
            quantizer = net.convs[layer.replace(".", "_")].variants[variant].a
            moves.append(scale / float(quantizer.step()))
            quantizer.log_step.fill_(np.log(scale))
        if not isinstance(node, Conv):
            continue
        per_variant, o = net.convs[node.name.replace(".", "_")].variants[variant], len(node.bias)
        unit, offset = node.w_scale.astype(np.float64), node.bias * x_scale * node.w_scale.astype(np.float64)
        gain = np.ones(o)
        if node.requant is not None:
            offset = offset / np.exp2(node.requant.left)
        if isinstance(per_variant.norm, torch.nn.BatchNorm2d):
            gain = (per_variant.norm.weight / (per_variant.norm.running_var + per_variant.norm.eps).sqrt()).numpy()
            (
                per_variant.norm.weight.fill_(1),
                per_variant.norm.running_mean.fill_(0),
                per_variant.norm.running_var.fill_(1 - per_variant.norm.eps),
            )
        moves += list(unit / gain / per_variant.w.step().numpy().reshape(-1))
        per_variant.norm.bias.copy_(torch.tensor(offset))
        step = torch.tensor(unit[: per_variant.w.log_step.numel()]).reshape(per_variant.w.log_step.shape)
        per_variant.w.log_step.copy_(step.log())
        net.convs[node.name.replace(".", "_")].weight.copy_(torch.tensor(node.weight).permute(0, 3, 1, 2) * step)
    return moves


@pytest.mark.parametrize("arch", ["resnet8", "resnet20"])
@pytest.mark.parametrize("seed", range(5))
def test_graph_computes_what_was_trained(arch, seed):
    net, images = network(arch, seed, variants=1)
    graph = lower(net.double(), "v0")
    moves = np.abs(np.log(settle(net, "v0", graph)))
    assert moves.max() < 0.02  # a few thousandths, but for narrow inputs whose ratio is near 1
    with torch.no_grad():
        floats = net(images, "v0").numpy() / graph.tensors["logits"].scale
    integers = interpreter.run(graph, images.numpy())
    # No sum is near a tie, so float64 finds every code; logits differ by the float32 rounding of the scales, 1e-7.
    assert np.abs(floats - integers).max() < 0.25
    assert integers.std(0).max() > 1  # and pictures differ


def test_eight_bits_agree_before_settling():
    net, images = network("resnet20", 5, variants=0)
    net.add_variant("w8a8", {layer.name: (8, 8) for layer in net.arch.layers})
    net.calibrate(images)
    graph = lower(net.double(), "w8a8")
    integers = interpreter.run(graph, images.numpy()) * graph.tensors["logits"].scale
    floats = net(images, "w8a8").detach().numpy()
    # Scales move by up to 0.3 % a layer and codes at a border flip; over 20 layers of a random network that adds up to
    # some percent of the differences between pictures.
    assert np.sqrt(np.mean((integers - floats) ** 2)) < 0.15 * (floats - floats.mean(0)).std()


@pytest.mark.parametrize("arch", ["resnet8", "resnet20"])
def test_no_ratio_can_meet_a_tie(arch):
    net, _ = network(arch, 3, variants=3)
    for variant in net.bits:
        graph = lower(net, variant)
        assert graph.bit_config() == net.bits[variant]
        for node in graph.nodes:
            if isinstance(node, Conv) and node.requant is not None:
                q = np.exp2(31 + node.requant.shift) / node.requant.multiplier
                odd = np.rint(q)
                assert np.all(odd % 2 == 1) and np.abs(q / odd - 1).max() < 2e-7  # float32 scales
                assert odd.min() > 1024 and np.all((node.requant.left == 0) | (odd < 2048))
                if node.skip is not None:
                    worth = graph.tensors[node.skip].scale / graph.tensors[node.output].scale
                    # exact: the residual operand is worth N / 3 of an output code, in units of 1 / Q
                    assert np.array_equal(3 * node.skip_multiplier, np.rint(3 * worth) * odd)
            elif isinstance(node, (Rescale, AvgPool)):
                area = node.kernel[0] * node.kernel[1] if isinstance(node, AvgPool) else 1
                ratio = graph.tensors[node.input].scale / (graph.tensors[node.output].scale * area)
                tops = np.arange(1, 65)
                q = tops / ratio
                fits = (np.abs(q / np.rint(q) - 1) < 3e-7) & (np.rint(q) % 2 == 1)
                assert fits.any()
            else:
                assert isinstance(node, (Shortcut, Conv))


@given(st.floats(1 / 511, 3))
def test_odd_ratios_are_near(ratio):
    p, q = odd_ratio(ratio)
    assert 1 <= p <= 64 and q % 2 == 1 and 1 <= q <= 511
    assert abs(np.log(p / q / ratio)) < (0.4 if ratio < 0.01 else 0.05 if ratio < 0.04 else 0.02)


def test_vanishing_channels_keep_small_integers():
    weight = np.full((3, 1, 1, 4), 100, np.int64)
    ratio = np.array([1e-9, 1 / 12000, 1 / 1500])
    codes, left, q = tie_free(weight, ratio, 1)
    assert codes[0].max() == 0 and codes[1:].min() == 100
    assert np.all(q % 2 == 1) and q.max() <= 1 << 14 and list(left) == [0, 0, 0]


@given(st.lists(st.floats(1e-7, 1 / 4096), min_size=2, max_size=8), st.sampled_from([1, 3]))
def test_small_channels_of_like_ratios_share_codes_and_keep_their_worth(ratios, divisor):
    """Codes shrink by powers of two alone; what they are worth, codes * 2**left / Q, is off by half a code and Q's."""
    weight = np.arange(-128, 128, dtype=np.int64)[None].repeat(len(ratios), 0)
    codes, left, q = tie_free(weight, np.array(ratios), divisor)
    shrink = np.exp2(np.minimum(0, np.floor(np.log2(np.array(ratios) * LARGEST_Q))))
    assert np.array_equal(codes, np.floor(weight * shrink[:, None] + 0.5))
    worth, wanted = codes * (np.exp2(left) / q)[:, None], weight * np.array(ratios)[:, None]
    assert q.max() <= LARGEST_Q + 2 * divisor
    assert (np.abs(worth - wanted) <= (0.5 * np.exp2(left) / q)[:, None] + np.abs(wanted) * 2 * divisor / 1024).all()


@given(st.integers(0, 10**6), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_torch_integers_are_the_reference(seed, tie, extreme):
    graph = random_graph(seed, tie_free=tie, extreme=extreme)
    x = pictures(graph, 7, seed)
    assert np.array_equal(evaluate(graph, x), interpreter.run(graph, x))


@pytest.mark.parametrize("seed", FIXED_SEEDS)
def test_torch_integers_are_the_reference_for_codes_as_output(seed):
    graph = quantized_to_the_end(seed)
    x = pictures(graph, 5, seed)
    assert np.array_equal(evaluate(graph, x), interpreter.run(graph, x))


@pytest.mark.parametrize("seed", FIXED_SEEDS)
def test_torch_integers_are_the_reference_for_every_op(seed):
    ops = ("depthwise", "grouped", "skip", "shortcut", "add", "max_pool", "rescale", "dense", "avg_pool")
    graph = random_graph(seed, ops=ops[seed % 4 :], tie_free=False, extreme=seed % 2 == 0)
    x = pictures(graph, 5, seed)
    assert np.array_equal(evaluate(graph, x), interpreter.run(graph, x))


@pytest.mark.parametrize("op", FOREIGN_OPS)
def test_torch_integers_are_the_reference_for_operators_of_foreign_files(op):
    for seed in range(4):
        graph = random_graph(seed, ops=(op,), tie_free=False, extreme=seed % 2 == 0)
        x = pictures(graph, 5, seed)
        assert np.array_equal(evaluate(graph, x), interpreter.run(graph, x))


def test_torch_integers_beyond_float32():
    graph = resnet_like(bits=((8, 8),), width=64, size=8)  # sums pass 2**24
    x = pictures(graph, 70, 0)
    assert np.array_equal(evaluate(graph, x), interpreter.run(graph, x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", FIXED_SEEDS)
def test_torch_integers_on_cuda_are_the_reference(seed):
    graph = random_graph(seed)
    x = pictures(graph, 40, seed)
    assert np.array_equal(evaluate(graph, x, "cuda"), interpreter.run(graph, x))
