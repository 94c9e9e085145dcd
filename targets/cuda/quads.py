"""CUDA kernels without tensor cores: a thread takes four neighbouring channels of a pixel, or of a few in a row.

Neighbouring threads are neighbouring channels, so that a warp reads and writes words side by side. Channels that do not
come in fours are read and written byte by byte.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.cuda.epilogue import ConvEpilogue, RatioEpilogue
from targets.cuda.memory import QUAD, THREADS, Place, fill_borders, load, quads, store, words
from targets.kernel import Buffers, Exit, Kernel, Step, is_step_of
from targets.reference.nodes import BITS, NO_PADDING, Add, Conv, Mul, Padding, Pair, Rescale
from targets.tables import NO_WEIGHTS, two_planes

STRIPS = (4, 2, 1)  # pixels a thread of a depthwise convolution takes


Compute = Callable[[Buffers, Place, Any], None]  # (buffers, first pixel, first channel): makes a thread's codes
Values = Callable[[Buffers, Place, Any], Sequence[Any]]  # the same, but gives the four int32 codes or sums
Emit = Callable[[Buffers, tuple[Any, Any]], None]


def each_quad(step: Step[Any], compute: Compute, strip: int = 1, zeros: bool = False) -> Emit:
    """Returns an emit with a thread for every quad of channels of every `strip` pixels of the output; borders too.

    zeros: the border takes the table's zero points.
    """
    h, w, channels = step.write.tensor.shape
    across = -(-channels // QUAD)
    total = step.write.pictures * h * w // strip * across
    blocks = -(-total // THREADS)

    def emit(buffers: Buffers, _: tuple[Any, Any]) -> None:
        with T.launch_thread("blockIdx.x", blocks) as block, T.launch_thread("threadIdx.x", THREADS) as thread:
            i = T.bind(block * THREADS + thread)
            with T.If(i < total), T.Then():
                place = Place.of(i // across * strip, step.write.tensor.shape)
                compute(buffers, place, i % across * QUAD)
            fill_borders(step.writes, buffers.writes, i, blocks * THREADS, buffers.table if zeros else None)

    return emit


def plain(step: Step[Any], values: Values, zeros: bool = False) -> Emit:
    """Returns each_quad's emit for values that are stored as they are."""

    def compute(buffers: Buffers, place: Place, channel: Any) -> None:
        codes = [T.bind(v) for v in values(buffers, place, channel)]
        store(buffers.writes[0], step.write, T.bind(place.at(step.write, channel)), channel, codes)

    return each_quad(step, compute, zeros=zeros)


def ratio(step: Step[Any], rule: str, epilogue: RatioEpilogue, sums: Values) -> Kernel:
    """Returns a kernel of sums that end with one ratio for all channels."""

    def compute(buffers: Buffers, place: Place, channel: Any) -> None:
        epilogue.put(sums(buffers, place, channel), buffers, place, channel)

    return Kernel(rule, NO_WEIGHTS, 8, epilogue.table, each_quad(step, compute))


def registers(start: Sequence[Any]) -> Any:
    """Returns a buffer of four int32 sums."""
    buffer = T.alloc_buffer((QUAD,), "int32", scope="local")
    for i, value in enumerate(start):
        T.buffer_store(buffer, value, [i])
    return buffer


def depthwise(step: Step[Any]) -> Kernel | None:
    """One filter a channel, channels in fours: each column of codes is read once for all pixels of the strip."""
    if not is_step_of(step, Conv) or not step.node.is_regular:
        return None
    node = step.node
    if node.weight.shape[3] > 1 or node.groups != len(node.weight) or node.groups % QUAD:
        return None
    (o, kh, kw, _), across = node.weight.shape, node.stride[1]
    epilogue, layout = ConvEpilogue(step), step.reads[0]
    strip = next(s for s in STRIPS if step.write.tensor.shape[1] % s == 0)

    def compute(buffers: Buffers, place: Place, channel: Any) -> None:
        accs = [registers([T.int32(0)] * QUAD) for _ in range(strip)]
        first = corner(place, node.stride, node.padding)
        at = T.bind(first.at(layout, channel))
        for dy in range(kh):
            filters = [
                _signed(T.bind(words(buffers.weights)[((dy * kw + dx) * o + channel) // QUAD])) for dx in range(kw)
            ]
            for column in range((strip - 1) * across + kw):
                taps = [(p, column - p * across) for p in range(strip) if 0 <= column - p * across < kw]
                if taps:
                    codes = load(buffers.reads[0], layout, at + dy * layout.row_stride + column * o, channel)
                for p, dx in taps:
                    for i in range(QUAD):
                        T.buffer_store(accs[p], accs[p][i] + codes[i] * filters[dx][i], [i])
        for p in range(strip):
            epilogue.put(
                [accs[p][i] for i in range(QUAD)], buffers, Place(place.picture, place.y, place.x + p), channel
            )

    weights = np.ascontiguousarray(node.weight[..., 0].transpose(1, 2, 0)).reshape(-1)
    return Kernel(
        f"depthwise, strips of {strip}", weights, node.w_bits, epilogue.table, each_quad(step, compute, strip)
    )


def _signed(word: Any) -> list[Any]:
    """The four int8 of a bound word, as int32."""
    bits = T.cast(word, "uint32")
    return [
        T.bind(T.shift_right(T.cast(T.shift_left(bits, T.uint32(24 - 8 * i)), "int32"), T.int32(24)))
        for i in range(QUAD)
    ]


def conv(step: Step[Any]) -> Kernel | None:
    """Any convolution, grouped ones too: a thread sums its channels one after the other."""
    if not is_step_of(step, Conv):
        return None
    node = step.node
    o, kh, kw, inputs = node.weight.shape
    epilogue, layout, outputs = ConvEpilogue(step), step.reads[0], o // node.groups
    down, right = node.dilation[0] * layout.row_stride, node.dilation[1] * layout.tensor.shape[2]

    def weight_at(buffers: Buffers, index: Any) -> Any:
        low = T.cast(buffers.weights[index], "int32")
        if node.w_bits in BITS:
            return low
        return low + T.int32(2) * T.cast(buffers.weights[node.weight.size + index], "int32")

    def compute(buffers: Buffers, place: Place, channel: Any) -> None:
        accs = registers([T.int32(0)] * QUAD)
        first = corner(place, node.stride, node.padding)
        for i in range(QUAD):
            c = T.bind(T.min(channel + i, o - 1))
            at = T.bind(first.at(layout, c // outputs * inputs))
            with T.grid(kh, kw, inputs) as (dy, dx, ci):
                code = buffers.reads[0][at + dy * down + dx * right + ci]
                weight = weight_at(buffers, ((dy * kw + dx) * inputs + ci) * o + c)
                T.buffer_store(accs, accs[i] + T.cast(code, "int32") * weight, [i])
        epilogue.put([accs[i] for i in range(QUAD)], buffers, place, channel)

    weights = two_planes(node.weight.transpose(1, 2, 3, 0).reshape(-1), node.w_bits)
    return Kernel("plain conv", weights, min(node.w_bits, 8), epilogue.table, each_quad(step, compute))


def corner(place: Place, stride: Pair, padding: Padding = NO_PADDING) -> Place:
    """Returns the first pixel of the window of an output pixel."""
    return Place(place.picture, place.y * stride[0] - padding[0], place.x * stride[1] - padding[1])


def add(step: Step[Any]) -> Kernel | None:
    """Two codes times their multipliers."""
    if not is_step_of(step, Add):
        return None
    node = step.node
    a, b = step.reads
    offsets = -(a.tensor.zero_points() * node.multipliers[0] + b.tensor.zero_points() * node.multipliers[1])
    epilogue = RatioEpilogue(step, offsets, *node.multipliers)

    def sums(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        both = [
            load(r, layout, place.at(layout, channel), channel) for r, layout in zip(buffers.reads, (a, b), strict=True)
        ]
        return [x * epilogue.value(buffers, 0) + y * epilogue.value(buffers, 1) for x, y in zip(*both, strict=True)]

    return ratio(step, "add", epilogue, sums)


def mul(step: Step[Any]) -> Kernel | None:
    """The product of two maps, or of a map and one value a channel."""
    if not is_step_of(step, Mul):
        return None
    a, b = step.reads
    is_vector = b.tensor.shape[:2] == (1, 1)
    epilogue = RatioEpilogue(step, np.zeros(a.tensor.shape[2], np.int64))

    def sums(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        places = (place, Place(place.picture, 0, 0) if is_vector else place)
        first, second = (
            [code - layout.tensor.zero_point[0] for code in load(read, layout, at.at(layout, channel), channel)]
            for read, layout, at in zip(buffers.reads, (a, b), places, strict=True)
        )
        return [x * y for x, y in zip(first, second, strict=True)]

    return ratio(step, "mul", epilogue, sums)


def rescale(step: Step[Any]) -> Kernel | None:
    """The same values in another scale or width."""
    if not is_step_of(step, Rescale):
        return None
    (layout,) = step.reads
    return ratio(
        step,
        "rescale",
        RatioEpilogue(step, -layout.tensor.zero_points()),
        lambda buffers, place, channel: load(buffers.reads[0], layout, place.at(layout, channel), channel),
    )


def logits(step: Step[Any]) -> Kernel | None:
    """Codes less their zero points, as int32."""
    if not is_step_of(step, Exit):
        return None
    (layout,) = step.reads
    zero_points = -layout.tensor.zero_points()
    table = np.pad(zero_points, (0, -zero_points.size % QUAD)).astype(np.int32)

    def values(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        codes = load(buffers.reads[0], layout, place.at(layout, channel), channel)
        return [code + z for code, z in zip(codes, quads(buffers.table[T.ramp(channel, 1, QUAD)]), strict=True)]

    return Kernel("logits", NO_WEIGHTS, 8, table, plain(step, values))
