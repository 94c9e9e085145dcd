"""Checkpoints: what was saved comes back, and what is damaged or of another program is refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from train.loop import checkpoint
from train.loop.checkpoint import CheckpointError, fill, load, save

STATE = {
    "phase": "joint",
    "epoch": 1,
    "step": 2,
    "sums": [0.5],
    "counted": 2,
    "settings": {"seed": 0},
    "journal": 7,
    "configs": {"format": 1},
}


def saved(folder, state=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    return net, save(folder, {"student": net}, None, [], STATE if state is None else state)


def test_what_was_saved_comes_back(tmp_path):
    net, _ = saved(tmp_path)
    tensors, state = load(tmp_path)
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    fill(other, tensors, "student")
    assert state == STATE
    assert all(torch.equal(t, net.state_dict()[k]) for k, t in other.state_dict().items())


@pytest.mark.parametrize("place", ["tensors", "state"])
def test_one_flipped_bit_is_noticed(tmp_path, place):
    _, path = saved(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-3 if place == "tensors" else raw.index(b"journal") + len(b'journal\\": ')] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="last.safetensors is damaged.* without --resume"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"phase": "dreaming"}, "phase 'dreaming'"),
        ({"journal": -1}, "journal '-1'"),
        ({"journal": "7"}, "journal '7'"),
        ({"settings": []}, r"settings '\[\]'"),
        ({"configs": None}, "configs 'None'"),
        ({"epoch": True}, "epoch 'True'"),
        ({"phase": ["full"]}, "phase"),
        (None, "expected a run's state"),
    ],
)
def test_a_state_that_is_none_is_refused(tmp_path, change, told):
    saved(tmp_path, [] if change is None else {**STATE, **change})
    with pytest.raises(CheckpointError, match=f"{told}.*start without --resume"):
        load(tmp_path)


def test_before_its_end_a_search_may_have_found_nothing(tmp_path):
    saved(tmp_path, {**STATE, "phase": "search", "configs": None})
    assert load(tmp_path)[1]["configs"] is None
    saved(tmp_path, {"phase": "done", "settings": {}, "journal": 0, "configs": {}})
    assert load(tmp_path)[1]["phase"] == "done"


def test_tensors_of_another_module_are_refused(tmp_path):
    _, path = saved(tmp_path)
    tensors = load_file(path)
    with pytest.raises(CheckpointError, match=r"this run's student .*\(0.bias, 0.weight, 1.bias\).*start without"):
        fill(nn.Conv2d(3, 4, 1), tensors, "student")


@pytest.mark.parametrize(
    "given, told",
    [
        ({checkpoint.ABOUT: json.dumps({"format": checkpoint.FORMAT, "state": json.dumps(STATE)})}, "damaged"),
        ({checkpoint.ABOUT: json.dumps({"format": checkpoint.FORMAT, "state": 7})}, "damaged"),
        ({checkpoint.ABOUT: "{"}, "format None, expected 4"),
        ({checkpoint.ABOUT: "[]"}, "format None, expected 4"),
        (None, "format None, expected 4"),
        ({"format": "2", "state": json.dumps(STATE)}, "format 2, expected 4"),
    ],
)
def test_a_file_without_digest_or_of_another_format_is_refused(tmp_path, given, told):
    _, path = saved(tmp_path)
    save_file(load_file(path), path, given)
    with pytest.raises(CheckpointError, match=f"{told}.*start without --resume"):
        load(tmp_path)
