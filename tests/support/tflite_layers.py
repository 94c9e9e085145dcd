"""Holds each layer of an imported .tflite file against LiteRT's, both fed with LiteRT's own inputs."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compile.qdq.normalization import Normalization
from compile.tflite.file import read_file
from compile.tflite.peer import open_interpreter
from compile.tflite.picture import open_picture
from compile.tflite.records import FileModel
from targets.reference import interpreter
from targets.reference.graph import Graph


@dataclass(frozen=True)
class LayerDifference:
    """How many codes of a node's output differ from LiteRT's, of how many, and by how many steps at most."""

    node: str
    differing: int
    codes: int
    largest: int


REFERENCE = "BUILTIN_REF"  # the kernels that an operator is defined by


def litert_tensors(
    path: Path, file: FileModel, picture: np.ndarray, normalization: Normalization | None, kernels: str
) -> dict[int, np.ndarray]:
    """Every tensor that LiteRT computes for one picture uint8 [H, W, C], by its number."""
    litert = open_interpreter(Path(path).read_bytes(), kernels)
    litert.set_tensor(file.input, open_picture(file, normalization).file_input(picture[None]))
    litert.invoke()
    return {t.index: litert.get_tensor(t.index) for t in file.tensors if t.kind in ("INT8", "UINT8") and t.data is None}


def layer_differences(
    path: Path, graph: Graph, pictures: np.ndarray, normalization: Normalization | None = None, kernels: str = REFERENCE
) -> list[LayerDifference]:
    """Of each node whose output is a tensor of the file, over pictures uint8 [N, H, W, C]."""
    file = read_file(path)
    counts: dict[str, list[int]] = {}
    for picture in pictures:
        known = litert_tensors(path, file, picture, normalization, kernels)
        values = {graph.input: picture[None]}
        for node in graph.nodes:
            codes = interpreter._NODES[type(node)](graph, node, values)
            values[node.output] = codes
            number = re.fullmatch(r"tensor_(\d+)", node.output)
            if number is None or int(number[1]) not in known:
                continue
            tensor = file.tensors[int(number[1])]
            expected = known[tensor.index].astype(np.int64).reshape(codes.shape) + tensor.offset
            apart = np.abs(codes.astype(np.int64) - expected)
            differing, total, largest = counts.get(node.name, [0, 0, 0])
            counts[node.name] = [differing + int((apart > 0).sum()), total + apart.size, max(largest, int(apart.max()))]
            values[node.output] = expected.astype(np.uint8)
    return [LayerDifference(name, *numbers) for name, numbers in counts.items()]
