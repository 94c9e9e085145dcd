"""--json: refused before the work where it cannot be written, else written to files, devices and standard output."""

import json
import os
import stat
import threading

import pytest

from runtime import __main__ as command

COMMANDS = ("check", "infer", "bench", "info")


def test_json_is_checked_before_the_work(small_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "describe_bundle", lambda bundle: pytest.fail("it worked first"))
    for path in ("folder", "", "none/x.json", "file/x.json", "x" * 300):
        assert command.main(["info", str(small_bundle), "--json", path]) == 2
        err = capsys.readouterr().err
        assert f"--json {path!r}: expected" in err and "tmp" not in err
    for name in ("manifest.json", "weights.bin", "new.json"):
        assert command.main(["info", str(small_bundle), "--json", str(small_bundle / name)]) == 2
        assert "expected a file outside the bundle" in capsys.readouterr().err
    (tmp_path / "link.json").symlink_to(small_bundle / "manifest.json")
    assert command.main(["info", str(small_bundle), "--json", "link.json"]) == 2
    (tmp_path / "link.json").unlink()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_json_goes_where_it_is_sent(small_bundle, tmp_path, capfd):
    """Into a device and a pipe, which stay what they are, and to where a link leads."""
    words = ["info", str(small_bundle), "--json"]
    pipe = tmp_path / "pipe"
    link = tmp_path / "link"
    received = []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(json.loads(pipe.read_text())))
    reader.start()
    assert command.main([*words, str(pipe)]) == 0
    reader.join()
    assert received[0]["name"] == "small" and stat.S_ISFIFO(pipe.stat().st_mode)
    link.symlink_to(tmp_path / "real")
    assert command.main([*words, str(link)]) == 0
    assert link.is_symlink() and json.loads((tmp_path / "real").read_text()) == received[0]
    capfd.readouterr()
    assert command.main([*words, "/dev/full"]) == 2
    assert "--json '/dev/full': expected a file that can be written" in capfd.readouterr().err
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("name", COMMANDS)
def test_standard_output_holds_json_alone(selecting, tmp_path, capsys, monkeypatch, name):
    """Even where the newest bundle is looked for, and a picture cannot be read."""
    good = tmp_path / "good.ppm"
    good.write_bytes(b"P6\n4 3\n255\n" + bytes([220] * 36))
    (tmp_path / "bundles").mkdir()
    selecting.rename(tmp_path / "bundles" / "b")
    monkeypatch.chdir(tmp_path)
    words = {"infer": [str(good), "missing.png"], "bench": ["--calls", "2"]}.get(name, [])
    status = command.main([name, *words, "--json", "-"])
    out, err = capsys.readouterr()
    records = json.loads(out)
    if name == "infer":
        assert [record["picture"] for record in records] == [str(good)]
        assert (
            status == 1 and err == "error: missing.png: expected a picture file, this one is missing; check its name\n"
        )
    else:
        assert records and status == 0 and err == ""
    assert not (tmp_path / "-").exists()
