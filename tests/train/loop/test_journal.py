"""The journal: a run goes on with the lines that its checkpoint knows, and refuses another file."""

import pytest

from train.loop.journal import Journal, JournalError, JournalLine


@pytest.mark.parametrize("content", [None, b"", b'{"phase": "joint"}\n', b"x" * 9999])
def test_resume_refuses_a_journal_that_lost_lines(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(JournalError, match="expected the 40 bytes of .*metrics.jsonl.* start without"):
        Journal(tmp_path, 40)
    assert content is None or (tmp_path / "metrics.jsonl").read_bytes() == content


@pytest.mark.parametrize("content", [b'{"phase": "joint"}\n', b"[1, 2]\n", b'"joint"\n'])
def test_resume_refuses_lines_that_are_none_of_a_journal(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(JournalError, match="got a line that is none of a journal.* start without"):
        Journal(tmp_path, len(content))


def test_lines_are_flat_objects_and_come_back():
    line = JournalLine("joint", 7, {"lr": 0.5, "loss/w4a4": 2.0}, epoch=1)
    assert line.to_dict() == {"phase": "joint", "epoch": 1, "step": 7, "lr": 0.5, "loss/w4a4": 2.0}
    assert JournalLine.from_dict(line.to_dict()) == line
    assert "epoch" not in JournalLine("sensitivity", 0, {}, layer="conv1").to_dict()


def test_what_a_checkpoint_does_not_know_is_dropped(tmp_path):
    first, second = (JournalLine("full", step, {"lr": 0.1}, epoch=1) for step in (1, 2))
    journal = Journal(tmp_path)
    journal.write(first)
    size = journal.write_to_disk()
    journal.write(second)
    journal.close()
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    again = Journal(tmp_path, size)
    assert again.dropped == len(whole) - size > 0
    again.write(second)
    again.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
