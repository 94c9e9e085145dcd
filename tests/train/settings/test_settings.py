"""The settings: their checks, the command line, configuration files and presets."""

import io
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from train.settings.command_line import make_parser, parse
from train.settings.config_file import read_config, write_config
from train.settings.options import SettingsError, flag, rules_of
from train.settings.presets import MEANINGS, PRESETS
from train.settings.settings import SECTION_OF, SECTIONS, Settings
from train.settings.table import settings_table

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"method": "csq", "activation_bits": 5}, "--activation-bits: expected one of --widths 2,3,4,8, got 5"),
        ({"arch": "resnet9"}, "--arch: expected one of resnet8"),
        ({"arch": "resnet21"}, "got 'resnet21'; did you mean resnet"),
        ({"method": "fracbit"}, "got 'fracbit'; did you mean fracbits?"),
        ({"dataset": "cifar"}, "got 'cifar'; did you mean cifar10?"),
        ({"families": "clean,jpg"}, "got 'clean,jpg'; did you mean jpeg?"),
        ({"method": "hawq"}, "--method: expected one of fixed, fracbits"),
        ({"bits": "8,9"}, "--bits: expected widths from 2 to 8"),
        ({"bits": "4,w4a4"}, "w4a4 is there twice"),
        ({"bits": "four"}, "got 'four'"),
        ({"dataset": "mnist"}, "--dataset: expected digits"),
        ({"dataset": "folder:/nowhere"}, "there is no such folder"),
        ({"families": "clean,fog"}, "--families: expected different families of clean"),
        ({"families": "clean,pixelate"}, "pixelate held out as well"),
        ({"epochs": 0}, "--epochs: expected at least 1"),
        ({"lr": 0.0}, "--lr"),
        ({"budget": 1.5}, "--budget"),
        ({"device": "gpu"}, "--device: expected auto, cpu"),
        ({"device": "cuda:１"}, "--device: expected auto, cpu"),
        ({"bits": "８"}, "--bits: expected widths from 2 to 8"),
        ({"bits": "w８a8"}, "--bits: expected widths"),
        ({"widths": "2,８"}, "--widths: expected"),
        ({"kinds": "３"}, "--kinds: expected families"),
        ({"target": "nope"}, "--target: there is no target"),
        ({"policy_gradient": float("inf")}, "--policy-gradient: expected a finite"),
        ({"seed": 2**63}, "--seed: expected at most 4294967295"),
        ({"dataset": "folder:"}, "there is no such folder"),
        ({"size": 48}, "--size: expected 32 for digits"),
        ({"method": "dqmq", "samples": 65}, "--samples: expected at most the pictures of a step, --batch 64, got 65"),
        ({"configs": "c.json", "bits": "4"}, "--configs c.json: brings along what --bits would decide"),
        *(
            (
                {"size": side, "dataset": f"folder:{Path(__file__).parent}"},
                "--size: expected a multiple of 4 from 8 to 128",
            )
            for side in (4, 30, 132)
        ),
        *(({name: 1}, "expected at least 2, ") for name in ("limit", "selector_pictures", "test_pictures")),
    ],
)
def test_bad_settings_say_what_was_expected(wrong, message):
    with pytest.raises(SettingsError, match="^--") as error:
        Settings.of(**wrong)
    assert message in str(error.value)


def test_command_line_is_made_from_the_fields(capsys):
    settings = parse(["--bits", "8,w4a8", "--epochs", "3", "--hold-out", "none", "--resume", "--out", "somewhere"])
    assert settings.bits.uniform == {"w8a8": (8, 8), "w4a8": (4, 8)}
    assert (
        settings.training.epochs == 3
        and settings.place.resume
        and settings.data.held_out == ()
        and settings.folder.name == "somewhere"
    )
    assert str(Settings().folder) == os.path.join("runs", "digits-resnet8-fixed")
    with pytest.raises(SystemExit):
        parse(["--bits", "1"])
    assert "expected widths from 2 to 8" in capsys.readouterr().err


def test_every_option_belongs_to_one_section_and_says_what_it_is():
    names = [f.name for section in SECTIONS.values() for f in fields(section)]
    assert len(set(names)) == len(names) == len(SECTION_OF)
    for section in SECTIONS.values():
        assert all(rules.help.endswith(".") and rules.help[0].isupper() for rules in rules_of(section).values())


def test_help_shows_a_dozen_options_and_help_all_shows_every_one(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    everyday = capsys.readouterr().out
    hidden = sum(not rules.everyday for section in SECTIONS.values() for rules in rules_of(section).values())
    assert everyday.endswith(f"\n--help-all shows {hidden} more.\n")
    assert ended.value.code == 0 and 10 <= everyday.count("\n  --") <= 16
    with pytest.raises(SystemExit) as ended:
        parse(["--help-all"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"  {flag(name)}" in text for name in SECTION_OF)
    assert all(f"\n{section} options:" in text for section in SECTIONS)
    assert max(map(len, text.splitlines())) <= int(os.environ.get("COLUMNS", "80"))


def test_a_wrong_flag_is_one_line_within_a_second():
    """Before torch has loaded: the check must not need what training needs."""
    code = "import sys\nfrom train.run import main\ntry: main(['--budget', '7'])\nfinally: print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: --budget: expected a share of the cost of 8 bits, in 0..1, got 7.0; see python -m train.run --help\n"
    )
    assert not {"torch", "sklearn", "albumentations", "matplotlib"} & set(ended.stdout.split())


@pytest.mark.parametrize(
    "command, words, message",
    [
        ("train.run", "--dataset folder:empty", "empty/train: there is no such folder; expected empty/train/CLASS/"),
        ("train.run", "--start absent", "--start: there is no absent/checkpoint/last.safetensors; start without"),
        ("train.run", "--resume --out absent", "--resume: there is no absent/checkpoint/last.safetensors; start"),
        ("train.run", "--out full", "--out full: expected no such folder, an empty one, or that of an earlier run"),
        ("train.recost.__main__", "", "the following arguments are required: RUN, --out; see python -m train.recost"),
        ("train.recost.__main__", "absent --out b", "absent: expected a finished run, but there is no such folder"),
        ("train.recost.__main__", "empty --out b", "empty: expected a finished run, but run.json is missing; if this"),
        ("train.report.__main__", "absent", "absent: expected a finished run, but there is no such folder; check the"),
        ("train.report.__main__", "a --statik b", "unrecognized arguments: --statik b; did you mean --static? See"),
    ],
)
def test_first_mistakes_are_told_before_torch_has_loaded_and_leave_nothing(tmp_path, command, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    code = f"import sys\nfrom {command} import main\ntry: main({words.split()})\nfinally: print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"error: {message}")
    assert not {"torch", "scipy", "albumentations", "matplotlib"} & set(ended.stdout.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_flags_win_over_the_file_which_wins_over_the_preset(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('[training]\nepochs = 7\nlr = 0.01\n[bits]\nbits = "8"\n[place]\ncache = "somewhere"\n')
    settings = parse(["--preset", "quick", "--config", str(file), "--epochs", "9"])
    assert (settings.training.epochs, settings.training.lr, settings.bits.bits) == (9, 0.01, "8")
    assert settings.training.fp_epochs == PRESETS["quick"]["fp_epochs"] and settings.place.cache == Path("somewhere")
    assert parse([]) == Settings() and parse(["--no-escalate"]) == Settings()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_options_that_go_together(preset):
    settings = Settings.of(**PRESETS[preset])
    assert parse(["--preset", preset]) == settings != Settings() and preset in MEANINGS


def test_a_file_that_a_run_leaves_repeats_it(tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"")
    changes = {
        "weights": weights,
        "seed": 5,
        "budget": 0.25,
        "private_epochs": 1,
        "flip": "no",
        "lr": 1e-4,
        "limit": 40,
    }
    settings = Settings.of(**changes, out=tmp_path / "a", resume=True)
    write_config(tmp_path / "settings.toml", settings)
    again = parse(["--config", str(tmp_path / "settings.toml"), "--out", str(tmp_path / "a"), "--resume"])
    assert again == settings
    assert parse(["--config", str(tmp_path / "settings.toml")]) == Settings.of(**changes)


@pytest.mark.parametrize(
    "text, message",
    [
        ("epochs = 3", "expected tables named data, network, .*got 'epochs'"),
        ("[trainings]\nepochs = 3", "expected tables named .*got 'trainings'"),
        ("[training]\nepoch = 3", "option 'epoch', but no option is called so; did you mean epochs.$"),
        ("[bits]\nepochs = 3", "option 'epochs', but it belongs under .training."),
        ('[training]\nepochs = "3"', "epochs: expected a whole number, got '3'"),
        ("[training]\nepochs = true", "epochs: expected a whole number, got True"),
        ("[training]\nlr = true", "lr: expected a number, got True"),
        ("[judging]\nescalate = 1", "escalate: expected true or false, got 1"),
        ("[place]\ncache = 1", "cache: expected a path as text, got 1"),
        ("[training", "expected a TOML file, cannot read it"),
    ],
)
def test_bad_files_say_what_was_expected(tmp_path, text, message):
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=f"^--config {file}: .*{message}"):
        read_config(file)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(SettingsError, match="--config .*a.toml: there is no such file"):
        read_config(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="expected a TOML file"):
        read_config(tmp_path / "b.toml")


@pytest.mark.parametrize(
    "dataset, flip, mirrored",
    [
        ("cifar10", "auto", True),
        ("digits", "auto", False),
        ("folder:.", "auto", False),
        ("folder:.", "yes", True),
        ("cifar10", "no", False),
    ],
)
def test_own_pictures_are_mirrored_only_where_that_is_asked_for(dataset, flip, mirrored):
    """A mirrored left-turn sign is a right-turn sign."""
    settings = Settings.of(dataset=dataset, flip=flip)
    assert settings.data.mirrored is mirrored and settings.record()["flip"] == ("yes" if mirrored else "no")


def test_the_table_fits_a_terminal_and_shows_what_was_asked_for():
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    settings = Settings.of(lr=0.125, private_epochs=3, out=Path("somewhere") / ("deep/" * 30))
    console.print(settings_table(settings, "cpu"))
    text = console.export_text()
    assert "lr=0.125" in text and "private_epochs=3" in text and "flip=no" in text and "device=cpu" in text
    assert max(map(len, text.splitlines())) <= 80 and "policy_lr" not in text


def test_a_number_that_an_option_excludes_is_told_by_its_flag():
    with pytest.raises(SettingsError, match="--workers: expected at least 1, got 0"):
        Settings.of(workers=0)
    with pytest.raises(SettingsError, match="--lr: expected a number between 0 and 1, got nan"):
        Settings.of(lr=float("nan"))
    with pytest.raises(SettingsError, match=r"expected options of train.run .*, got epoch; did you mean epochs\?$"):
        Settings.of(epoch=3)


def test_a_folder_named_without_its_prefix_is_told_how_to_write_it(tmp_path):
    with pytest.raises(SettingsError, match=f"for your own pictures write folder:{tmp_path}"):
        Settings.of(dataset=str(tmp_path))


def test_parsers_of_both_helps_know_the_same_flags():
    flags = [{s for a in make_parser(everything)._actions for s in a.option_strings} for everything in (False, True)]
    assert flags[0] == flags[1]
