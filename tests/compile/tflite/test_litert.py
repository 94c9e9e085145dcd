"""Every operator's network against LiteRT itself, layer by layer, where ai-edge-litert is installed."""

import numpy as np
import pytest

pytest.importorskip("tflite", reason="no schema: pip install tflite==2.18.0 flatbuffers")
pytest.importorskip("ai_edge_litert", reason="LITERT NOT COMPARED: pip install ai-edge-litert==2.3.0 --no-deps")

from compile.tflite.peer import PeerError, open_interpreter, run_litert
from tests.compile.tflite.test_operators import CASES
from tests.support.tflite_cases import photos
from tests.support.tflite_layers import REFERENCE, layer_differences

NOT_IN_LITERT = {"conv groups"}  # its reference kernels of int8 take no groups
KERNELS = {"elu": "BUILTIN_WITHOUT_DEFAULT_DELEGATES"}  # has no reference kernel


@pytest.mark.parametrize("name", sorted(set(CASES) - NOT_IN_LITERT))
def test_every_layer_is_within_a_step_of_litert(name, tmp_path):
    case = CASES[name]()
    path = tmp_path / "case.tflite"
    path.write_bytes(case.net.to_bytes())
    pictures = photos(3, case.net.tensors[0].shape[1:])
    layers = layer_differences(path, case.graph(), pictures, case.normalization, KERNELS.get(name, REFERENCE))
    assert {f"tensor_{case.result}", f"tensor_{case.net.output}"} <= {n.output for n in case.graph().nodes}
    assert max(layer.largest for layer in layers) <= 1
    codes, differing = sum(layer.codes for layer in layers), sum(layer.differing for layer in layers)
    assert differing <= (0.4 if "average" in name or name == "mean" else 0.15) * codes


def test_litert_answers_with_logits(tmp_path):
    case = CASES["conv"]()
    path = tmp_path / "case.tflite"
    path.write_bytes(case.net.to_bytes())
    logits = run_litert(path, photos(4))
    assert logits.shape == (4, 3) and logits.dtype == np.int64 and len(np.unique(logits)) > 3


def test_litert_refuses_a_damaged_file_in_one_line():
    with pytest.raises(PeerError, match="does not take the file") as error:
        open_interpreter(b"\0\0\0\0TFL3" + bytes(40))
    assert "\n" not in str(error.value)
