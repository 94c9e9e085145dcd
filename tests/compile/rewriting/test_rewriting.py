"""Rewritten graphs give the codes of before: several functions as one table, weights of 9 bits as two of 8."""

from dataclasses import replace

import numpy as np
import pytest

from compile.rewriting.fusing import fused
from compile.rewriting.halving import halved
from targets.reference import interpreter
from targets.reference.nodes import Conv, Lookup, Mul
from targets.reference.scales import rescale_requant
from tests.support.graph_builder import Builder
from tests.support.graphs import pictures, random_graph


@pytest.mark.parametrize("seed", range(6))
def test_fusing_changes_no_code(seed):
    graph = random_graph(seed, ops=("lookup", "rescale", "lookup", "mul", "squeeze", "concat"), tie_free=False)
    x = graph.nodes[0].output
    tensors = {**graph.tensors, "twice": replace(graph.tensors[x], name="twice", scale=2 * graph.tensors[x].scale)}
    ratio = rescale_requant(tensors[x].scale, tensors["twice"].scale)
    double = Mul("double", x, x, "twice", ratio, 0, tensors[x].qmax)
    nodes = [replace(n, input="twice") if isinstance(n, Lookup) and n.input == x else n for n in graph.nodes[1:]]
    whole = replace(graph, tensors=tensors, nodes=(graph.nodes[0], double, *nodes))
    smaller = fused(whole)
    products = [n.name for n in smaller.nodes if isinstance(n, Mul)]
    assert len(smaller.nodes) < len(whole.nodes) and "double" not in products
    inputs = pictures(graph, 5, seed)
    np.testing.assert_array_equal(interpreter.run(smaller, inputs), interpreter.run(whole, inputs))


@pytest.mark.parametrize("seed", range(8))
def test_halving_changes_no_code(seed):
    whole = random_graph(seed, ops=("unsigned", "concat", "unsigned"), tie_free=False, extreme=False)
    split = halved(whole)
    inputs = pictures(whole, 5, seed)
    values, before = (interpreter.run_all(graph, inputs)[1] for graph in (split, whole))
    assert all(np.array_equal(values[name], before[name]) for name in before)
    wide = [node for node in split.nodes if isinstance(node, Conv) and node.w_bits == 9]
    assert all(node.groups > 1 or np.abs(node.weight).max() >= 255 for node in wide)


def test_a_picture_with_a_zero_point_for_each_channel_is_not_copied():
    builder = Builder("first", np.random.default_rng(0), (6, 5), False, False, [8])
    whole = builder.finish(builder.conv(builder.input, 8, w_bits=9))
    assert [type(node) for node in halved(whole).nodes] == [type(node) for node in whole.nodes]


@pytest.mark.parametrize("reach", [254, 255])
def test_halves_fit_eight_bits_up_to_254(reach):
    builder = Builder("wide", np.random.default_rng(0), (6, 5), False, False, [8])
    x = builder.conv(builder.input, 8, w_bits=8)
    whole = builder.finish(builder.conv(x, 8, w_bits=9))
    conv = whole.nodes[1]
    weight = np.random.default_rng(1).integers(-reach, reach + 1, conv.weight.shape).astype(np.int16)
    weight[0, 0, 0, :2] = (-reach, reach)
    small = replace(conv.requant, left=0 * conv.requant.left)
    nodes = (whole.nodes[0], replace(conv, weight=weight, bias=0 * conv.bias, requant=small), *whole.nodes[2:])
    changed = replace(whole, nodes=nodes)
    split = halved(changed)
    assert len(split.nodes) == len(changed.nodes) + (reach == 254)
    inputs = pictures(changed, 5, 0)
    np.testing.assert_array_equal(interpreter.run(split, inputs), interpreter.run(changed, inputs))
