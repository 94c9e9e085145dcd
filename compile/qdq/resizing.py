"""Which pixels a Resize to the nearest takes, by ONNX's definition of its attributes."""

from collections.abc import Callable, Sequence

import numpy as np

from compile.qdq.node import FileNode
from compile.qdq.values import require

# ONNX, Resize, coordinate_transformation_mode: the place in the input of a place in the output.
COORDINATES: dict[bytes, Callable[[np.ndarray, float, int, int], np.ndarray]] = {
    b"half_pixel": lambda x, scale, _, __: (x + 0.5) / scale - 0.5,
    b"half_pixel_symmetric": lambda x, scale, size, to: size / 2 * (1 - to / (scale * size)) + (x + 0.5) / scale - 0.5,
    b"pytorch_half_pixel": lambda x, scale, _, to: (x + 0.5) / scale - 0.5 if to > 1 else np.zeros_like(x),
    b"align_corners": lambda x, _, size, to: x * (size - 1) / (to - 1) if to > 1 else np.zeros_like(x),
    b"asymmetric": lambda x, scale, _, __: x / scale,
}
ROUNDINGS: dict[bytes, Callable[[np.ndarray], np.ndarray]] = {
    b"round_prefer_floor": lambda x: np.ceil(x - 0.5),
    b"round_prefer_ceil": lambda x: np.floor(x + 0.5),
    b"floor": np.floor,
    b"ceil": np.ceil,
}


def resized_places(node: FileNode, shape: Sequence[int]) -> list[np.ndarray]:
    """Returns int64 [n] of every axis of a map, the place that each of the n comes from; raises OnnxError."""
    mode = node.attributes.get("mode", b"nearest")
    require(mode == b"nearest", node.where, "a Resize to the nearest pixel", mode)
    is_upsample = node.kind == "Upsample"
    default = b"asymmetric" if is_upsample else b"half_pixel"
    coordinates = node.attributes.get("coordinate_transformation_mode", default)
    rounding = node.attributes.get("nearest_mode", b"floor" if is_upsample else b"round_prefer_floor")
    known = coordinates in COORDINATES and rounding in ROUNDINGS
    require(known, node.where, "a transformation of coordinates that is known", (coordinates, rounding))
    policy = node.attributes.get("keep_aspect_ratio_policy", b"stretch")
    require(policy == b"stretch", node.where, "sizes that stretch", policy)
    scales, sizes = _targets(node, shape)
    places = []
    for size, scale, to in zip(shape, scales, sizes, strict=True):
        x = COORDINATES[coordinates](np.arange(to, dtype=np.float64), scale, size, to)
        places.append(np.clip(ROUNDINGS[rounding](x), 0, size - 1).astype(np.int64))
    return places


def _targets(node: FileNode, shape: Sequence[int]) -> tuple[list[float], list[int]]:
    """Scales and sizes of the axes behind the batch."""
    axes = [axis % (len(shape) + 1) for axis in node.attributes.get("axes", range(len(shape) + 1))]
    scale_input = 1 if node.kind == "Upsample" or len(node.inputs) == 2 else 2
    given_scales, given_sizes = node.constant(scale_input), node.constant(3)
    if given_scales is None:
        given_scales = np.array(node.attributes["scales"]) if "scales" in node.attributes else None
    by_size = given_sizes is not None and given_sizes.size > 0
    target = given_sizes if by_size else given_scales
    require(target is not None and target.size == len(axes), node.where, f"{len(axes)} scales or sizes", target)
    before = (1, *shape)
    scales, sizes = [1.0] * len(before), list(before)
    for axis, value in zip(axes, np.asarray(target).tolist(), strict=True):
        require(value > 0, node.where, "positive scales or sizes", value)
        sizes[axis] = int(value) if by_size else int(np.floor(before[axis] * value))
        scales[axis] = value / before[axis] if by_size else value
    require(sizes[0] == 1, node.where, "no resizing of the batch", sizes[0])
    return scales[1:], sizes[1:]
