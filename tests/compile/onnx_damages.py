"""The damages that tests/compile/fuzz_onnx.py does to quantized networks."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.compile.onnx_networks import network

U8, S8, S32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
OPERATORS = (
    "Conv Gemm MatMul Add Relu Clip GlobalAveragePool AveragePool ReduceMean MaxPool Slice Pad Transpose Flatten "
    "Reshape Squeeze Identity QuantizeLinear DequantizeLinear Mul Sub Sigmoid Concat Softmax HardSwish LeakyRelu Cast"
).split()
NUMBERS = (0, 1, -1, 2, 3, 4, 7, 255, 65536, 2**31 - 1, -(2**31))
FACTORS = (0.0, -1.0, np.nan, np.inf, 1e-30, 1e-6, 1e-3, 0.1, 0.5, 1.5, 3.0, 1e3, 1e6, 1e30)
TYPES = (U8, S8, S32, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT4, TensorProto.INT4)


def damaged(seed: int, number: int) -> tuple[onnx.ModelProto, list[str]]:
    """Returns a network with one to three damages, and their names; the same for the same numbers."""
    rng = np.random.default_rng([seed, number])
    model = network(rng)
    names = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
        damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
        names.append(damage.__name__)
        try:
            damage(rng, model)
        except (ValueError, IndexError, TypeError, OverflowError):  # this network has nothing of the kind
            names[-1] += " (none)"
    return model, names


def pick(rng: np.random.Generator, items):
    """One of some items; raises IndexError where there are none."""
    every = list(items)
    return every[int(rng.integers(len(every)))] if every else every[0]


def _attributes(model):
    return [(node, a) for node in model.graph.node for a in node.attribute]


def change_attribute(rng, model):
    _, attribute = pick(rng, _attributes(model))
    if attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = int(pick(rng, NUMBERS))
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = int(pick(rng, NUMBERS))
    else:
        attribute.f = float(pick(rng, FACTORS))


def drop_attribute(rng, model):
    node, attribute = pick(rng, _attributes(model))
    node.attribute.remove(attribute)


def lengthen_attribute(rng, model):
    _, attribute = pick(rng, [(n, a) for n, a in _attributes(model) if a.ints])
    if rng.random() < 0.5:
        attribute.ints.pop()
    else:
        attribute.ints.append(int(pick(rng, NUMBERS)))


def add_attribute(rng, model):
    choices = {
        "strides": [2, 1],
        "dilations": [2, 2],
        "pads": [1, 0, 2, 0],
        "auto_pad": "SAME_UPPER",
        "ceil_mode": 1,
        "axis": int(pick(rng, NUMBERS)),
        "group": 2,
        "alpha": 0.5,
        "transA": 1,
        "keepdims": 0,
        "block_size": 2,
        "count_include_pad": 1,
        "saturate": 0,
        "output_dtype": U8,
        "perm": [0, 2, 3, 1],
    }
    name = pick(rng, choices)
    pick(rng, model.graph.node).attribute.append(helper.make_attribute(name, choices[name]))


def change_scale(rng, model):
    """A float constant, times a factor; all of it or one number."""
    tensor = pick(rng, [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT])
    array = numpy_helper.to_array(tensor).copy()
    with np.errstate(all="ignore"):
        if array.size > 1 and rng.random() < 0.5:
            array.reshape(-1)[int(rng.integers(array.size))] *= pick(rng, FACTORS)
        else:
            array = (array * pick(rng, FACTORS)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def change_codes(rng, model):
    """An integer constant: a zero point, or one weight."""
    tensor = pick(rng, [t for t in model.graph.initializer if t.data_type in (U8, S8, S32)])
    array = numpy_helper.to_array(tensor).copy()
    limits = np.iinfo(array.dtype)
    value = int(pick(rng, (limits.min, limits.max, 0, 1, 17)))
    if array.size > 1 and rng.random() < 0.5:
        array.reshape(-1)[int(rng.integers(array.size))] = value
    else:
        array = np.full_like(array, value)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def change_shape(rng, model):
    """A constant in another shape: transposed, flattened, with a dimension more, repeated or cut."""
    tensor = pick(rng, model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    shapes = (
        array.T,
        array.reshape(-1),
        array[None],
        array[..., None],
        np.repeat(array.reshape(1, *array.shape), 2, 0),
        array[:0] if array.ndim else array,
        array[:1] if array.ndim else array.reshape(1, 1),
        np.resize(array, (*array.shape[:-1], 2 * array.shape[-1])) if array.ndim else np.resize(array, 4),
    )
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(pick(rng, shapes)), tensor.name))


def change_type(rng, model):
    """A constant as another type, with its values or with its bytes."""
    tensor, kind = pick(rng, model.graph.initializer), int(pick(rng, TYPES))
    if rng.random() < 0.2:
        tensor.data_type = kind
        return
    array = numpy_helper.to_array(tensor).astype(np.float64)
    tensor.CopyFrom(helper.make_tensor(tensor.name, kind, array.shape, np.clip(array, -8, 7).reshape(-1).tolist()))


def move_edge(rng, model):
    """An input from another value."""
    node = pick(rng, model.graph.node)
    names = [*(n.output[0] for n in model.graph.node), *(t.name for t in model.graph.initializer), "x", "", "nobody"]
    node.input[int(rng.integers(len(node.input)))] = pick(rng, names)


def swap_inputs(rng, model):
    node = pick(rng, [n for n in model.graph.node if len(n.input) > 1])
    first, second = rng.permutation(len(node.input))[:2]
    node.input[first], node.input[second] = node.input[second], node.input[first]


def drop_input(rng, model):
    pick(rng, model.graph.node).input.pop()


def rename(rng, model):
    """A node's name: another's, none, or one that no file should have."""
    node = pick(rng, model.graph.node)
    node.name = pick(rng, ("", pick(rng, model.graph.node).name, "a" * 3000, "\x1b[31m", "../..", "x", node.output[0]))


def drop_node(rng, model):
    model.graph.node.remove(pick(rng, model.graph.node))


def repeat_node(rng, model):
    """A node twice, behind itself: the second one's output is new and takes the place of the first's."""
    at = int(rng.integers(len(model.graph.node)))
    twin = onnx.NodeProto()
    twin.CopyFrom(model.graph.node[at])
    old, new = twin.output[0], twin.output[0] + "_again"
    twin.input[0], twin.output[0], twin.name = old, new, twin.name + "_again"
    for later in list(model.graph.node)[at + 1 :]:
        later.input[:] = [new if name == old else name for name in later.input]
    model.graph.node.insert(at + 1, twin)


def change_operator(rng, model):
    pick(rng, model.graph.node).op_type = pick(rng, OPERATORS)


def insert_operator(rng, model):
    """An operator of one input, in an edge."""
    at = int(rng.integers(len(model.graph.node)))
    node = model.graph.node[at]
    kinds = (
        "Relu",
        "Identity",
        "Sigmoid",
        "Flatten",
        "GlobalAveragePool",
        "Transpose",
        "Squeeze",
        "LeakyRelu",
        "Softmax",
    )
    new = helper.make_node(pick(rng, kinds), [node.input[0]], [f"inserted{at}"], name=f"inserted{at}")
    node.input[0] = new.output[0]
    model.graph.node.insert(at, new)


def add_constant(rng, model):
    """An addition or product with a constant of some shape, behind any node."""
    kinds = ("Conv", "Gemm", "DequantizeLinear", "Flatten", "GlobalAveragePool")
    at = pick(rng, [k for k, node in enumerate(model.graph.node) if node.op_type in kinds])
    old = model.graph.node[at].output[0]
    n = next((t.dims[0] for t in model.graph.initializer if len(t.dims) == 4), 4)
    shape = pick(rng, ((), (n,), (n, 1), (n, 1, 1), (1, n, 1, 1), (1, 1, 1, n), (1, 1, n, 1), (1, n), (5,), (5, 1)))
    name = f"added{at}"
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 1, shape).astype(np.float32), f"{name}_c"))
    for later in list(model.graph.node)[at + 1 :]:
        later.input[:] = [name if n == old else n for n in later.input]
    kind = pick(rng, ("Add", "Add", "Mul", "Sub"))
    model.graph.node.insert(at + 1, helper.make_node(kind, [old, f"{name}_c"], [name], name=name))


def change_picture(rng, model):
    """A dimension or the type of the picture."""
    kind = model.graph.input[0].type.tensor_type
    if rng.random() < 0.3:
        kind.elem_type = int(pick(rng, TYPES))
        return
    kind.shape.dim[int(rng.integers(len(kind.shape.dim)))].dim_value = int(pick(rng, (*NUMBERS, 5, 6, 8, 16)))


def change_opset(rng, model):
    model.opset_import[0].version = int(pick(rng, (7, 9, 10, 11, 12, 13, 17, 18, 19, 22, 24, 26, 99)))


def change_output(rng, model):
    model.graph.output[0].name = pick(rng, [n.output[0] for n in model.graph.node])


DAMAGES = (
    change_attribute,
    drop_attribute,
    lengthen_attribute,
    add_attribute,
    change_scale,
    change_scale,
    change_codes,
    change_shape,
    change_type,
    move_edge,
    swap_inputs,
    drop_input,
    rename,
    drop_node,
    repeat_node,
    change_operator,
    insert_operator,
    add_constant,
    add_constant,
    add_constant,
    change_picture,
    change_opset,
    change_output,
)
