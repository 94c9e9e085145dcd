#!/bin/sh
# onnxruntime leaves dilations out of the padding that auto_pad=SAME asks for in its pools: the map comes out smaller
# than ONNX says (and than its own shape inference says), with a warning at most. Its Conv refuses the same attributes.
#
# ONNX: with auto_pad SAME the output has ceil(input / stride) rows and columns, whatever the kernel's reach.
# In bitgrade: the importer pads as ONNX says (compile/qdq/node.py); tests/compile/test_onnx_moves.py leaves this one
# combination out of its comparison.
#
# Seen 2026-12-01 with onnxruntime 1.32.0 and onnx 1.23.2:
#   MaxPool      ONNX says 7x7, reference 7x7, onnxruntime 5x5
#   AveragePool  ONNX says 7x7, reference 7x7, onnxruntime 5x5
#   LpPool       ONNX says 7x7, reference 7x7, onnxruntime 5x5
#   Conv         ONNX says 7x7, reference 7x7, onnxruntime refuses
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
onnxruntime.set_default_logger_severity(4)
picture = np.arange(49, dtype=np.float32).reshape(1, 1, 7, 7)


def sizes(kind):
    inputs, weights = ["x"], []
    if kind == "Conv":
        inputs, weights = ["x", "w"], [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")]
    node = helper.make_node(kind, inputs, ["y"], kernel_shape=[3, 3], dilations=[2, 2], auto_pad="SAME_UPPER")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, picture.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    reference = ReferenceEvaluator(model).run(None, {"x": picture})[0].shape[2:]
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": picture})[0].shape[2:]
    except Exception:
        found = "refuses"
    return tuple(d.dim_value for d in inferred[2:]), tuple(reference), found


changed = False
for kind in ("MaxPool", "AveragePool", "LpPool", "Conv"):
    inferred, reference, found = sizes(kind)
    print(f"{kind}: ONNX says {inferred}, its reference gives {reference}, onnxruntime {found}")
    expected = "refuses" if kind == "Conv" else (5, 5)
    changed |= inferred != (7, 7) or reference != (7, 7) or found != expected
if changed:
    sys.exit("the behaviour has changed")
PY
