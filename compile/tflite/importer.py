"""Reads an int8 or uint8 .tflite file into an integer graph.

Each operator becomes nodes of the graph at once, since every tensor of the file has its scale (operators.py says which
function reads which). int8 codes become unsigned by a shift of their zero point. TFLite rounds twice where the graph
rounds once, so that a layer's codes may be one step away from its own.
"""

from pathlib import Path

import numpy as np

from compile.qdq.normalization import Normalization
from compile.rewriting.fusing import fused
from compile.rewriting.halving import halved
from compile.tflite.errors import TfliteError, refusal, require
from compile.tflite.file import damage_reported, read_file
from compile.tflite.operators import READERS
from compile.tflite.picture import Picture, open_picture
from compile.tflite.reader import Reader, View, codes_of
from compile.tflite.records import FileModel, FileOperator
from targets.reference.graph import Graph
from targets.reference.nodes import Gather, GraphError, Lookup, Tensor
from targets.reference.scales import float32

PICTURE = "picture"
SCORES = ("SOFTMAX", "LOG_SOFTMAX", "LOGISTIC")  # at the end: monotone, so that the graph ends with their input
PASSED = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE")  # between them and the answer


def load(path: str | Path, normalization: Normalization | None = None) -> Graph:
    """Returns the graph of a file, see `from_model`; raises TfliteError for a file that cannot be read or taken."""
    try:
        return from_model(read_file(path), Path(path).stem, normalization)
    except TfliteError as error:
        raise TfliteError(f"{path}: {error}") from error


def from_model(file: FileModel, name: str = "network", normalization: Normalization | None = None) -> Graph:
    """Returns the integer graph of a classifier with one picture input.

    Its logits are the codes before a final SOFTMAX or LOGISTIC; a LOGISTIC of one value gives two classes, of logits 0
    and that value. normalization: of a picture whose codes the file does not tell. Raises TfliteError naming the
    operator or tensor, what was expected, what it has and what to do.
    """
    try:
        with damage_reported("model"):
            return _graph(file, name, normalization)
    except GraphError as error:
        raise TfliteError(f"model: its integers cannot be computed exactly: {error}") from error


def logits_of(file: FileModel) -> tuple[int, FileOperator | None]:
    """Returns the number of the tensor of logits, and the operator that makes scores of them, None where none does."""
    last = file.output
    for _ in file.operators:
        producer = file.producer(last)
        if producer is None or producer.kind not in (*PASSED, *SCORES) or not producer.inputs:
            break
        last = producer.inputs[0]
        if producer.kind in SCORES:
            return last, producer
    producer = file.producer(file.output)
    if producer is not None and producer.kind == "DEQUANTIZE" and producer.inputs:
        return producer.inputs[0], None
    return file.output, None


def _graph(file: FileModel, name: str, normalization: Normalization | None) -> Graph:
    reader = Reader(file)
    logits, scores = logits_of(file)
    require(logits >= 0, "model", "an output", "none")
    if scores is not None and scores.kind == "SOFTMAX":
        require(scores.options.Beta() == 1, scores.where, "a beta of 1", scores.options.Beta())
    picture = open_picture(file, normalization)
    _take_picture(reader, picture)
    for operator in _needed(file, logits):
        if not all(output in reader.values for output in operator.outputs):
            with damage_reported(operator.where):
                _read(reader, operator)
    output = _answer(reader, logits, scores)
    return halved(fused(Graph(name, reader.tensors, tuple(reader.nodes), PICTURE, output)))


def _take_picture(reader: Reader, picture: Picture) -> None:
    """Gives the reader the picture's tensor, and the table of its codes where they are not the picture itself."""
    codes = picture.codes
    view_of = picture.input if picture.quantizer is None else codes
    if (picture.table == np.arange(256)).all():
        reader.tensors[PICTURE] = codes_of(codes, PICTURE, picture.shape)
        reader.values[view_of.index] = View(PICTURE, codes.shape)
        return
    reader.tensors[PICTURE] = Tensor(PICTURE, picture.shape, 8, float32(1 / 255))
    out = codes_of(codes, f"tensor_{codes.index}", picture.shape)
    reader.append(Lookup(f"{PICTURE}/normalize", PICTURE, out.name, picture.table), out)
    reader.values[view_of.index] = View(out.name, codes.shape)


def _needed(file: FileModel, logits: int) -> list[FileOperator]:
    """Operators that the logits depend on, in the file's (running) order."""
    tensors = {logits}
    needed = []
    for operator in reversed(file.operators):
        if tensors & set(operator.outputs):
            needed.append(operator)
            tensors |= set(operator.inputs)
    return needed[::-1]


def _read(reader: Reader, operator: FileOperator) -> None:
    if operator.kind not in READERS:
        advice = "rewrite the network without it, or leave it out of the exported part"
        raise refusal(operator.where, f"one of {', '.join(READERS)}", operator.kind, advice)
    values = READERS[operator.kind](reader, operator)
    outputs = values if isinstance(values, list) else [values]
    fits = len(outputs) == len(operator.outputs)
    require(fits, operator.where, f"{len(outputs)} outputs", len(operator.outputs))
    reader.values.update(zip(operator.outputs, outputs, strict=True))


def _answer(reader: Reader, logits: int, scores: FileOperator | None) -> str:
    """The name of the tensor of logits [1, 1, classes]."""
    tensor = reader.file.tensors[logits]
    value = reader.values.get(logits)
    if not isinstance(value, View):
        raise refusal(tensor.where, "logits that the network computes", "a constant, or nothing")
    tensor.require_map(tensor.where)
    last = reader.map_of(value, tensor.where)
    require(last.shape[:2] == (1, 1), tensor.where, "one score per class, [1, classes]", list(tensor.shape))
    if last.shape[2] > 1:
        return last.name
    is_binary = scores is not None and scores.kind == "LOGISTIC"
    require(is_binary, tensor.where, "at least two classes, or a LOGISTIC of one value", "one value")
    out = Tensor(f"{last.name}/classes", (1, 1, 2), 8, last.scale, last.zero_point)
    return reader.append(Gather(f"{last.name}/classes", last.name, out.name, (0,), (0,), (-1, 0)), out)
