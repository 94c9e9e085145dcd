"""Files given as weights: those that are no checkpoint, or one of another network, are refused in one line."""

import io
import json
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from train.network.architectures import architecture
from train.network.network import Network
from train.network.weights import load_weights, save_weights


def net(classes: int = 10, name: str = "resnet8") -> Network:
    return Network(architecture(name, (8, 8, 3), classes), {})


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def pickled(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["given.pt", "given.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x07\x12\x07bitgrade",
        json.dumps({"a": 1}).encode(),
        zipped(),
        pickled([1, 2]),
        pickled({}),
        pickled({"epoch": 3}),
        pickled({"state_dict": None}),
        pickled(torch.zeros(3)),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected a checkpoint of tensors by name .*, got ") as error:
        load_weights(net(), tmp_path / name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_another_network_is_refused_by_its_first_differences(tmp_path):
    save_weights(net(4), tmp_path / "ours.safetensors")
    with pytest.raises(
        ValueError,
        match="is no checkpoint of resnet8 for 10 classes; give the --arch .*: "
        r"convs.linear.weight of \[4, 64, 1, 1\], not \[10, 64, 1, 1\], convs.linear[\w.]+bias of",
    ):
        load_weights(net(), tmp_path / "ours.safetensors")
    with pytest.raises(ValueError, match=r"of resnet20 .* missing, .* missing, .* missing, and \d+ more$") as error:
        load_weights(net(name="resnet20"), tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_published_checkpoint_that_lacks_a_batch_norm_is_refused(tmp_path):
    resnet20, state = net(name="resnet20"), {}
    for layer in resnet20.arch.layers:
        state[f"module.{layer.name}.weight"] = torch.zeros(layer.outputs, layer.inputs, layer.kernel, layer.kernel)
    state["module.linear.weight"] = torch.zeros(10, 64)
    torch.save({"state_dict": state, "best": 1.0}, tmp_path / "a.th")
    with pytest.raises(ValueError, match="bn1.weight missing, bn1.bias missing.* more"):
        load_weights(resnet20, tmp_path / "a.th")


def test_saved_weights_may_be_read_by_who_may_read_other_files(tmp_path):
    save_weights(net(), tmp_path / "a.safetensors")
    (tmp_path / "other").write_text("")
    assert len({stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}) == 1
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
