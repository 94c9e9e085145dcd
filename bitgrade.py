"""bitgrade's console command, and its import for any folder: `bitgrade train ...`, `from bitgrade import Engine`.

The packages behind it are called train, compile, runtime and targets. A folder that holds a file or folder of such a
name hides them from Python; here that is told in one clear sentence.
"""

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# command -> (module that runs as `python -m`, what it does)
COMMANDS = {
    "train": ("train.run", "trains a family of integer networks on pictures of many qualities"),
    "adapt": ("train.adapt", "adapts a network to pictures of every quality, without training"),
    "recost": ("train.recost", "chooses anew among a run's variants, for another budget or board"),
    "report": ("train.report", "writes the report of a run, or compares several"),
    "compile": ("compile.build", "compiles a run or quantized ONNX files into a bundle for a target"),
    "profile": ("compile.profile", "measures what layers cost on a target"),
    "run": ("runtime", "checks a bundle on this device, classifies pictures, measures"),
}
FACE = ("Bundle", "BundleError", "Engine", "Prediction", "open_bundle")  # names of `runtime` that are here too


class HiddenPackageError(ImportError):
    """Another file or folder hides one of bitgrade's packages."""


def check_package(name: str) -> None:
    """Raises HiddenPackageError unless the package of that name is the one that stands beside this file."""
    spec = importlib.util.find_spec(name)
    places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin]
    own = Path(__file__).resolve().parent / name
    if not any(place is not None and Path(place).resolve() in (own, own / "__init__.py") for place in places):
        other = next((place for place in places if place is not None), "nothing")
        raise HiddenPackageError(
            f"expected bitgrade's own package {name} ({own}), got {other}, which hides it; rename that file or folder, "
            "or run from another folder"
        )


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command that the first word names, with the others as its command line."""
    words = sys.argv[1:] if words is None else list(words)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return
    if words[0] not in COMMANDS:
        _require_package("runtime")
        _answer_other_word(words[0])
        return
    module, _ = COMMANDS[words[0]]
    _require_package(module.partition(".")[0])
    sys.argv = [f"bitgrade {words[0]}", *words[1:]]  # from which the command knows how it is called
    runpy.run_module(module, run_name="__main__")


def _answer_other_word(word: str) -> None:
    """Prints the version for --version, and ends the program for any other word that is no command."""
    from runtime.terminal import did_you_mean, fail_with_help
    from runtime.version import VERSION

    if word != "--version":
        near = did_you_mean(word, COMMANDS)
        fail_with_help(f"expected a command among {', '.join(COMMANDS)}, got {word!r}{near}", "bitgrade")
    print(f"bitgrade {VERSION}")


def _require_package(name: str) -> None:
    """Ends the program where another file or folder hides one of bitgrade's packages."""
    try:
        check_package(name)
    except HiddenPackageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name.ljust(width)}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        ["usage: bitgrade COMMAND ...", "", *rows, "", "Each has a --help of its own; --version shows the version."]
    )


def __getattr__(name: str) -> Any:
    if name not in FACE:
        raise AttributeError(f"module 'bitgrade' has no attribute {name!r}; it has {', '.join(FACE)}")
    check_package("runtime")
    import runtime

    return getattr(runtime, name)


if __name__ == "__main__":
    main()
