"""Files are whole or not there: after errors, on a full disk, through links."""

import errno
import fcntl
import json
import os
import resource

import numpy as np
import pytest
import torch
from torch import nn

from runtime.files import alone_in, naming, remove_leftovers, replacing, write_bytes, write_json
from train.data.datasets import Dataset
from train.data.views import training_views
from train.loop.checkpoint import save_checkpoint
from train.loop.state import PRIVATE, CheckpointState


@pytest.fixture
def little_room():
    """No file may grow beyond 10 kB, which fails as a full disk does: in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    write_json(path, {"ä": [1, None]})
    assert json.loads(path.read_text()) == {"ä": [1, None]} and names(tmp_path) == ["a.json"]


def test_the_longest_names(tmp_path):
    for name in ("x" * 250 + ".json", "\N{GRINNING FACE}" * 62):
        write_bytes(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"


def test_where_there_are_no_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    def flock(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    with alone_in(tmp_path), pytest.raises(BlockingIOError), alone_in(tmp_path):
        pytest.fail("two at a time")
    monkeypatch.setattr(fcntl, "flock", flock)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass


def test_after_an_error_the_old_file_stays(tmp_path):
    path = tmp_path / "a.npz"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        assert temporary.suffix == ".npz" and temporary != path
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.npz"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    write_bytes(link, b"new")
    assert link.is_symlink() and real.read_text() == "new" and names(tmp_path / "there") == ["real.txt"]


def test_nothing_is_left_where_there_is_no_room(tmp_path, little_room):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(OSError, match="large"):
        write_bytes(tmp_path / "a", bytes(20_000))
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_checkpoint_without_room_leaves_the_one_before(tmp_path, little_room):
    state = CheckpointState(PRIVATE, None, {}, 0, None)
    path = save_checkpoint(tmp_path, {"net": nn.Linear(4, 4)}, None, [], state)
    before = path.read_bytes()
    with pytest.raises(OSError, match="large"):
        save_checkpoint(tmp_path, {"net": nn.Linear(100, 100)}, None, [], state)
    assert path.read_bytes() == before and names(path.parent) == [path.name]


def test_views_without_room_leave_nothing(tmp_path, little_room):
    x, y = np.zeros((8, 32, 32, 3), np.uint8), np.zeros(8, np.int64)
    with pytest.raises(OSError, match="large"):
        training_views(Dataset("test", ("a",), *(x, y) * 3), ("jpeg",), 0, tmp_path, workers=1)
    assert names(tmp_path) == []


def test_the_same_state_is_the_same_checkpoint(tmp_path):
    net, contents = nn.Linear(3, 2), set()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = CheckpointState(PRIVATE, None, {"seed": 3}, 0, None)
    for k in range(5):
        path = save_checkpoint(tmp_path / str(k), {"net": net}, optimizer, ["w", "b"], state)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    dead = (
        "a.999999999.tmp.npz",
        "checkpoint/last.999999999.tmp.safetensors",
        "x.999999999.tmp",
        "b.7.c.999999999.tmp.gz",
    )
    kept = (f"a.{os.getpid()}.tmp.npz", "1.tmp", "a.tmp.npz", "a.12x.tmp", "notes.txt")
    for name in (*dead, *kept):
        (tmp_path / name).write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(kept)


@pytest.mark.parametrize("write", [lambda p: write_bytes(p, bytes(20_000)), lambda p: write_json(p, "x" * 20_000)])
def test_a_full_disk_names_the_file(tmp_path, write, little_room):
    with pytest.raises(OSError, match="File too large: .*results.json"):
        write(tmp_path / "results.json")
    assert not list(tmp_path.iterdir())


def test_an_error_that_names_a_file_keeps_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), naming(tmp_path / "other"):
        (tmp_path / "absent").read_bytes()
