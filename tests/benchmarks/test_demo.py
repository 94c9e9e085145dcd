"""The demo without a linker: told before anything is adapted, and only what cannot be done is left out."""

import platform

import pytest

from benchmarks import demo

HERE = {"x86_64": "x86", "aarch64": "arm"}.get(platform.machine())
pytestmark = pytest.mark.skipif(HERE is None, reason=f"the demo does not run on {platform.machine()}")


class Checked(Exception):
    """The demo came to its check of the bundle."""


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The commands the demo starts; none is run."""
    started = []

    def run(*words):
        if words[0] == "runtime":
            raise Checked
        started.append(" ".join(words))

    monkeypatch.setattr(demo, "run_module", run)
    monkeypatch.setattr(demo, "RUN", tmp_path / "runs" / "demo")
    monkeypatch.setattr("sys.argv", ["demo"])
    return started


def test_without_a_linker_nothing_is_adapted(commands, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        demo.main()
    assert not commands and "found none; install one: apt install binutils" in capsys.readouterr().err


@pytest.mark.skipif(HERE == "arm", reason="here the other target is this machine")
def test_without_a_linker_for_arm_the_rest_is_done(commands, monkeypatch, capsys):
    monkeypatch.setattr(demo, "unlinkable", lambda: {"arm": "expected a linker for aarch64"})
    with pytest.raises(Checked):
        demo.main()
    assert [words.split()[0] for words in commands] == ["train.adapt", "compile.build"]
    assert "--target x86" in commands[1]
    assert "NOT compiled for arm: expected a linker for aarch64" in capsys.readouterr().out


def test_the_photos_that_are_classified_adapted_nothing(commands, monkeypatch):
    photos = demo.Photos.read()
    adapted, others = photos.part(0, demo.ADAPTED), photos.part(demo.ADAPTED)
    assert len(others.labels) == 200 and photos.pictures.shape == (600, 32, 32, 3)
    known = {picture.tobytes() for picture in adapted.pictures}
    assert len(known) == demo.ADAPTED and not any(picture.tobytes() in known for picture in others.pictures)
    demo.adapt(adapted)
    folder = demo.RUN.with_name("demo-photos")
    assert len(list(folder.glob("*/*.png"))) == demo.ADAPTED and f"--pictures {folder}" in commands[0]
