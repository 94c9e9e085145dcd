"""The parser of every command: one-line errors, the nearest option, the version, and the name that the user typed."""

import sys

import pytest

from runtime.terminal import OneLineParser, did_you_mean, program
from runtime.version import VERSION


def make_parser() -> OneLineParser:
    parser = OneLineParser(prog="tool", allow_abbrev=False)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--preset", choices=("quick", "best"))
    return parser


@pytest.mark.parametrize(
    "words, line",
    [
        ("--epoch 3", "unrecognized arguments: --epoch 3; did you mean --epochs? See tool --help"),
        ("--epoch=3", "unrecognized arguments: --epoch=3; did you mean --epochs? See tool --help"),
        ("--zzz", "unrecognized arguments: --zzz; see tool --help"),
        ("epochs", "unrecognized arguments: epochs; see tool --help"),
        (
            "--preset quik",
            "argument --preset: expected one of quick, best, got 'quik'; did you mean quick? See tool --help",
        ),
        ("--preset 77", "argument --preset: expected one of quick, best, got '77'; see tool --help"),
        ("--epochs x", "argument --epochs: invalid int value: 'x'; see tool --help"),
    ],
)
def test_errors_are_one_line_and_name_the_nearest_word(capsys, words, line):
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(words.split())
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and not out and err == f"error: {line}\n"


def test_wrong_words_of_a_sub_command_are_told(capsys):
    parser = make_parser()
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("check").add_argument("--calls")
    with pytest.raises(SystemExit):
        parser.parse_args(["chek"])
    assert capsys.readouterr().err.endswith("expected one of check, got 'chek'; did you mean check? See tool --help\n")
    assert parser.parse_args(["check", "--calls", "3"]).calls == "3"


def test_every_parser_shows_its_help_and_the_version(capsys):
    for words, text in ((["--version"], f"bitgrade {VERSION}\n"), (["--help"], "usage: tool ")):
        with pytest.raises(SystemExit) as ended:
            make_parser().parse_args(words)
        assert ended.value.code == 0 and capsys.readouterr().out.startswith(text)


def test_only_near_words_are_suggested():
    assert did_you_mean("trian", ["run", "train"]) == "; did you mean train?"
    assert did_you_mean("zebra", ["run", "train"]) == "" == did_you_mean("run", [])


def test_a_command_is_called_what_the_user_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/runtime/__main__.py"])
    assert program("runtime") == "python -m runtime"
    monkeypatch.setattr(sys, "argv", ["bitgrade run"])
    assert program("runtime") == "bitgrade run"
