"""A look as one TIR module: code that resizes a picture, chooses a variant for it, and ranks its logits.

runtime/choice and runtime/pictures/arrays.py say in numpy what it computes, runtime/abi.py how it is called. Every
processor's code gives the same integers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from runtime.abi import ALIGN, CHOOSE, PLAN, RANK, RESIZE
from runtime.choice.quality import D
from targets.cpu.look.planes import Planes, make_planes, place_planes
from targets.cpu.look.predictor import emit_choice
from targets.cpu.look.quality import emit_features
from targets.cpu.look.rank import emit_rank
from targets.cpu.look.resize import emit_filters, emit_resize
from targets.cpu.look.table import SelectorTable
from targets.cpu.look.vectors import Vectors, load


@dataclass(frozen=True, eq=False)
class Look:
    """What a look is compiled from.

    shape: of the network's input, [H, W, C]; classes: number of logits; selector: None where one variant serves all.
    """

    shape: tuple[int, int, int]
    classes: int
    selector: SelectorTable | None

    @property
    def resizes(self) -> bool:
        """Whether it resizes pictures: those of three channels; grey ones come in the input's size."""
        return self.shape[2] == 3

    @property
    def table(self) -> npt.NDArray[np.int32]:
        """Words of the table of `choose`, int32 [n]; none without a selector."""
        return np.zeros(0, np.int32) if self.selector is None else self.selector.words

    def workspace(self, vectors: Vectors) -> int:
        """Returns the bytes that `choose` works in, 0 without a selector."""
        return 0 if self.selector is None else place_planes(vectors, *self.shape[:2]).total

    def module(self, vectors: Vectors) -> tvm.IRModule:
        """Returns `rank`, `plan` and `resize` where pictures have colours, and `choose` where there is a selector."""
        functions = {"rank": self._rank()}
        if self.resizes:
            functions |= {"plan": self._plan(), "resize": self._resize(vectors)}
        if self.selector is not None:
            functions["choose"] = self._choose(vectors, self.selector)
        return tvm.IRModule({tvm.ir.GlobalVar(name): function for name, function in functions.items()})

    def _choose(self, vectors: Vectors, selector: SelectorTable) -> tvm.tirx.PrimFunc:
        height, width, channels = self.shape
        sizes = place_planes(vectors, height, width)
        elements = {
            "picture": height * width * channels,
            "table": selector.words.size,
            "workspace": sizes.total,
            "answer": 1 + D,
        }

        def body(picture: Any, table: Any, workspace: Any, answer: Any) -> None:
            planes = Planes.within(workspace, sizes)
            make_planes(vectors, picture, planes)
            features = emit_features(vectors, planes, lambda i: load(table, selector.logarithms.at + i, 1))
            for k in range(D):
                T.buffer_store(answer, features[k], [1 + k])
            T.buffer_store(answer, emit_choice(vectors, selector, table, features), [0])

        return _function("choose", CHOOSE, elements, body)

    def _rank(self) -> tvm.tirx.PrimFunc:
        def body(logits: Any, answer: Any) -> None:
            emit_rank(logits, self.classes, answer)

        return _function("rank", RANK, {"logits": self.classes, "answer": 2}, body)

    def _plan(self) -> tvm.tirx.PrimFunc:
        height, width, _ = self.shape

        def body(size: Any, filters: Any) -> None:
            rows, columns = (T.bind(_words(size[i], side)) for i, side in enumerate((height, width)))
            emit_filters(size[0], height, rows, filters, T.int32(0))
            emit_filters(size[1], width, columns, filters, T.bind(rows * height))

        return _function("plan", PLAN, {"size": 2}, body)

    def _resize(self, vectors: Vectors) -> tvm.tirx.PrimFunc:
        height, width, channels = self.shape

        def body(source: Any, size: Any, filters: Any, row: Any, picture: Any) -> None:
            records = tuple(T.bind(_words(size[i], side)) for i, side in enumerate((height, width)))
            emit_resize(vectors, (source, filters, row, picture), (height, width), size[1], records)

        return _function("resize", RESIZE, {"size": 2, "picture": height * width * channels}, body)


def _words(old: Any, new: int) -> Any:
    """Returns what `runtime.abi.filter_words` does."""
    largest = T.max(old, T.int32(new))
    return T.truncdiv(largest + T.int32(new - 1), T.int32(new)) * T.int32(2) + T.int32(3)


def _function(
    name: str, buffers: dict[str, str], elements: dict[str, int], body: Callable[..., None]
) -> tvm.tirx.PrimFunc:
    """Returns a public function of flat buffers; those that `elements` does not name may have any size."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            arguments = []
            for buffer, dtype in buffers.items():
                shape = (elements[buffer] if buffer in elements else T.int64(),)
                # a picture to be resized is the caller's, wherever it lies
                align = 1 if buffer == "source" else ALIGN
                arguments.append(T.arg(buffer, T.Buffer(shape, dtype, align=align)))
            body(*arguments)
    return builder.get().with_attr("global_symbol", name)
