"""Checkpoints: what was saved comes back, and what is damaged or of another program is refused in one line."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from train.bits.configs import Configs
from train.loop import checkpoint
from train.loop.checkpoint import CheckpointError, fill_module, load_checkpoint, save_checkpoint
from train.loop.state import CheckpointState, Position

CONFIGS = Configs({"arch": "resnet8"})
STATE = CheckpointState("joint", Position(1, 2, (0.5,), 2), {"seed": 0}, 7, CONFIGS)


def saved(folder, state=STATE):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    return net, save_checkpoint(folder, {"student": net}, None, [], state)


def test_what_was_saved_comes_back(tmp_path):
    net, _ = saved(tmp_path)
    tensors, state = load_checkpoint(tmp_path)
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    fill_module(other, tensors, "student")
    assert state == STATE
    assert all(torch.equal(t, net.state_dict()[k]) for k, t in other.state_dict().items())


@pytest.mark.parametrize("place", ["tensors", "state"])
def test_one_flipped_bit_is_noticed(tmp_path, place):
    _, path = saved(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-3 if place == "tensors" else raw.index(b"journal") + len(b'journal\\": ')] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="last.safetensors is damaged.* without --resume"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"phase": "dreaming"}, "expected one of the phases full, search, joint, private, got phase 'dreaming'"),
        ({"journal": -1}, "got journal -1"),
        ({"journal": "7"}, "got journal '7'"),
        ({"settings": []}, r"got settings '\[\]'"),
        ({"configs": None}, "got configs None"),
        ({"configs": {"format": 9}}, "expected configurations of format"),
        ({"position": {"epoch": True, "step": 0, "sums": [], "counted": 0}}, "got epoch True"),
        ({"position": {"epoch": 0, "step": 0, "sums": ["much"], "counted": 0}}, "much"),
        ({"phase": ["full"]}, "got phase"),
        (None, "expected a run's state"),
    ],
)
def test_a_state_that_is_none_is_refused(tmp_path, changes, message):
    content = [] if changes is None else {**STATE.to_dict(), **changes}
    saved(tmp_path, SimpleNamespace(to_dict=lambda: content))
    with pytest.raises(CheckpointError, match=f"{message}.*start without --resume"):
        load_checkpoint(tmp_path)


def test_before_its_end_a_search_may_have_found_nothing(tmp_path):
    state = CheckpointState("search", Position(0, 1, (), 0), {}, 0, None)
    saved(tmp_path, state)
    assert load_checkpoint(tmp_path)[1] == state and state.configs is None
    ended = CheckpointState("private", None, {}, 0, CONFIGS)
    saved(tmp_path, ended)
    assert load_checkpoint(tmp_path)[1] == ended


def test_tensors_of_another_module_are_refused(tmp_path):
    _, path = saved(tmp_path)
    tensors = load_file(path)
    with pytest.raises(CheckpointError, match=r"this run's student .*\(0.bias, 0.weight, 1.bias\).*start without"):
        fill_module(nn.Conv2d(3, 4, 1), tensors, "student")


def entry(**parts) -> dict[str, str]:
    return {checkpoint.METADATA_ENTRY: json.dumps(parts)}


@pytest.mark.parametrize(
    "metadata, message",
    [
        (entry(format=checkpoint.CHECKPOINT_FORMAT, state=json.dumps(STATE.to_dict())), "damaged"),
        (entry(format=checkpoint.CHECKPOINT_FORMAT, state=7), "damaged"),
        ({checkpoint.METADATA_ENTRY: "{"}, "format None, expected 4"),
        ({checkpoint.METADATA_ENTRY: "[]"}, "format None, expected 4"),
        (None, "format None, expected 4"),
        ({"format": "2", "state": json.dumps(STATE.to_dict())}, "format 2, expected 4"),
        (entry(format=3, sha256="", state="{}"), "format 3, expected 4"),
    ],
)
def test_a_file_without_digest_or_of_another_format_is_refused(tmp_path, metadata, message):
    _, path = saved(tmp_path)
    save_file(load_file(path), path, metadata)
    with pytest.raises(CheckpointError, match=f"{message}.*start without --resume"):
        load_checkpoint(tmp_path)
