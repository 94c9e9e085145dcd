"""Brings every form in which tools write quantized classifiers into plain QDQ, which the importer reads.

The passes stand in the order in which they run; each has a file of its own. The first ones settle what the file takes
and gives, and leave the operators of the tool: that model is what onnxruntime runs in the verification ladder. The
others rewrite operators; what each of them changes is exact, unless a note says otherwise.
"""

from dataclasses import dataclass

import onnx

from compile.forms.affine import fold_affine
from compile.forms.contrib import take_contrib_quantizers
from compile.forms.dynamic import take_dynamic
from compile.forms.folding import fold_constants, lift_constants, settle_shapes
from compile.forms.graph import MICROSOFT, STANDARD, FileGraph, FormError
from compile.forms.half import widen_halves
from compile.forms.layouts import remove_transposes
from compile.forms.options import NOTHING_OPEN, FormOptions
from compile.forms.pairs import merge_quantizers
from compile.forms.picture import Preprocessing, take_preprocessing
from compile.forms.placement import place_quantizers
from compile.forms.qonnx import take_qonnx
from compile.forms.qoperators import take_qoperators
from compile.forms.scores import ScoreKind, cut_scores
from compile.forms.sizes import set_sizes
from compile.forms.versions import lower_versions
from compile.forms.weights import move_codes

RUNNABLE = (*STANDARD, MICROSOFT)  # domains of operators that onnxruntime has


@dataclass(frozen=True, eq=False)
class NormalForm:
    """A file in plain QDQ.

    qdq: for the importer. file: the same network in the file's own operators, of one picture, up to the logits, as
    onnxruntime runs it; in ONNX's own operators where onnxruntime lacks the file's. preprocessing: what the file did to
    its picture, no longer in qdq. scores: how they follow from the logits, None where the file is silent. notes: what
    is not exactly as in the file.
    """

    qdq: onnx.ModelProto
    file: onnx.ModelProto
    preprocessing: Preprocessing | None = None
    scores: ScoreKind | None = None
    notes: tuple[str, ...] = ()


def normal_form(model: onnx.ModelProto, options: FormOptions = NOTHING_OPEN) -> NormalForm:
    """Returns the normal form of a model; raises FormError for a form that integers cannot say, and why."""
    graph = FileGraph(_checked(lower_versions(model)))
    lift_constants(graph)
    graph.infer()
    scores = cut_scores(graph, options.output)
    set_sizes(graph, options.size)
    graph.infer()
    file = graph.model()

    take_contrib_quantizers(graph)
    take_qonnx(graph)
    widen_halves(graph)
    take_qoperators(graph)
    fold_constants(graph)
    take_dynamic(graph)
    move_codes(graph)
    fold_affine(graph)
    graph.sort()
    standard = graph.model()
    preprocessing = take_preprocessing(graph)
    merge_quantizers(graph)
    remove_transposes(graph)
    notes = place_quantizers(graph)
    merge_quantizers(graph)
    settle_shapes(graph)
    graph.sort()
    qdq = graph.model()
    is_runnable = all(node.domain in RUNNABLE for node in file.graph.node)
    return NormalForm(qdq, file if is_runnable else standard, preprocessing, scores, tuple(notes))


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself; raises FormError for one that onnx's checker does not accept."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, TypeError, RuntimeError) as error:
        raise FormError(f"model: expected one that onnx.checker accepts, got: {str(error)[:500]}") from error
    return model
