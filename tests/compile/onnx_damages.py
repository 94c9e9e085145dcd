"""Small quantized networks drawn at random, and the damages that tests/compile/fuzz_onnx.py does to them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.foreign import OnnxNet

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


def network(rng: np.random.Generator) -> onnx.ModelProto:
    """Two to five layers with an activation, a pool, a residual, constants added; codes signed or not."""
    width = int(rng.choice([4, 5, 6, 8]))
    size = width if rng.random() < 0.5 else int(rng.integers(4, 9))  # as large as it has channels: any axis fits
    net = OnnxNet((3, size, size), elem_type=TensorProto.FLOAT)
    x, channels = net.qdq("x", 1 / 255), 3
    for _ in range(int(rng.integers(1, 4))):
        x = quantized(rng, net, layer(rng, net, x, channels, width))
        channels = width
        x = between(rng, net, x, width)
    x = quantized(rng, net, net.op("GlobalAveragePool", x))
    x = net.op("Flatten", x)
    weight = net.weight(codes(rng, (5, channels)), 0.01)
    x = net.op("Gemm", x, weight, *bias(rng, net, 5), name="last", transB=1)
    if rng.random() < 0.7:
        x = quantized(rng, net, x)
    return net.model(x, 5, full_check=False)


def codes(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.integers(-127, 128, shape)


def bias(rng: np.random.Generator, net: OnnxNet, count: int) -> list[str]:
    if rng.random() < 0.3:
        return []
    values = rng.normal(0, 0.3, count)
    return [net.const(values) if rng.random() < 0.5 else net.weight(np.rint(values / 1e-4), 1e-4, S32)]


def layer(rng: np.random.Generator, net: OnnxNet, x: str, channels: int, width: int) -> str:
    """A convolution, dense or depthwise, of 1 or 3 taps, with an activation or a constant added."""
    k = int(rng.choice([1, 3]))
    depthwise = channels == width and rng.random() < 0.3
    shape = (width, 1 if depthwise else channels, k, k)
    fan = shape[1] * k * k
    scale = rng.uniform(0.5, 1.5, width if rng.random() < 0.5 else None) * 0.02 / np.sqrt(fan)
    attributes = {"pads": [k // 2] * 4} | ({"group": width} if depthwise else {})
    biases = bias(rng, net, width)
    x = net.op("Conv", x, net.weight(codes(rng, shape), scale), *biases, **attributes)
    if not biases and rng.random() < 0.5:
        x = net.op("Add", x, net.const(rng.normal(0, 0.3, (width, 1, 1))))
    kind = rng.choice(["Relu", "Clip", "none"])
    if kind == "Clip":
        return net.op("Clip", x, net.const(0.0), net.const(6.0))
    return x if kind == "none" else net.op("Relu", x)


def between(rng: np.random.Generator, net: OnnxNet, x: str, width: int) -> str:
    """A pool, a sum with itself convolved, or nothing; the size of the map stays."""
    kind = rng.choice(["max", "mean", "add", "shift", "none"])
    if kind == "max":
        return quantized(rng, net, net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4))
    if kind == "mean":
        return quantized(rng, net, net.op("AveragePool", x, kernel_shape=[1, 1]))
    if kind == "add":
        other = quantized(rng, net, net.op("Conv", x, net.weight(codes(rng, (width, width, 1, 1)), 0.005)))
        return quantized(rng, net, net.op("Add", x, other))
    if kind == "shift":
        return quantized(rng, net, net.op("Add", x, net.const(rng.normal(0, 0.3, (1, width, 1, 1)))))
    return x


def quantized(rng: np.random.Generator, net: OnnxNet, x: str) -> str:
    signed = bool(rng.random() < 0.5)
    point = int(rng.integers(-20, 20)) + (0 if signed else 128)
    return net.qdq(x, float(rng.uniform(0.005, 0.03)), point, S8 if signed else U8)


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
