"""The bundle on the command line: `python -m runtime check | infer | bench | info [BUNDLE]`."""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from runtime.bundle.opened import newest_bundle
from runtime.choice.selector import rounded_up
from runtime.commands import bench, check, infer, info
from runtime.engine import Engine
from runtime.fields import BundleError
from runtime.files import write_json
from runtime.pictures.files import PictureError, pictures_in, pictures_inside
from runtime.terminal import say, terminal

SHOWN = ("luma", "contrast", "noise", "detail")  # of the features of quality; --json has them all


def table(rows: list[dict]) -> str:
    """Plain text with a line per row, under the keys of the first; numbers to the right."""
    keys = list(rows[0])
    cells = [keys] + [[f"{r[k]:.1f}" if isinstance(r[k], float) else str(r[k]) for k in keys] for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    right = [isinstance(rows[0][k], (int, float)) for k in keys]
    lines = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)] for row in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


@dataclass(frozen=True)
class Outcome:
    """What a command found, for --json; the same as text; errors of single pictures; the exit status."""

    found: list[dict] | dict
    text: str
    errors: list[str] = field(default_factory=list)
    code: int = 0


def _check(args) -> Outcome:
    rows = check(args.bundle)
    differing = sum(r["differing"] for r in rows)
    advice = "; this device computes something else: do not use this bundle here" if differing else ""
    return Outcome(rows, f"{table(rows)}\n{differing} logits differ{advice}", code=1 if differing else 0)


def _infer(args) -> Outcome:
    files, lacking = _files(args.pictures)
    with Engine(args.bundle, variant=args.variant, escalate=not args.no_escalate, **_options(args)) as engine:
        rows, errors = infer(engine, files)
    shown = [
        {
            "picture": r["picture"],
            "label": r["label"],
            "score": f"{r['score']:.3f}",
            "variant": r["variant"],
            "first": r["first"] if r["escalated"] else "",
            "ms": r["ms"],
            "quality": " ".join(f"{k}={r['quality'][k]}" for k in SHOWN) if r["quality"] else "",
        }
        for r in rows
    ]
    own = args.budget is None and engine.bundle.manifest.budget is not None
    budget = "" if engine.budget is None else f", budget {engine.budget:g}" + " (the bundle's own)" * own
    text = f"level {engine.level}{budget}" + (f"\n{table(shown)}" if rows else "")
    return Outcome(rows, text, lacking + errors, 1 if lacking + errors else 0)


def _files(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """The files that were named, alone and in folders, and an error for each folder that holds none."""
    files, errors = [], []
    for path in paths:
        try:
            files += pictures_in(path)
        except PictureError as error:
            errors.append(str(error))
    if not files:
        raise PictureError(
            "; ".join(errors) or "expected the files of pictures to classify, got none; name at least one"
        )
    return files, errors


def _bench(args) -> Outcome:
    rows = bench(args.bundle, args.calls, **_options(args))
    return Outcome(rows, table(rows))


def _info(args) -> Outcome:
    found = info(args.bundle)
    own, worst = found["budget"], any(b["worst"] is not None for b in found["budgets"])
    parts = [
        f"{found['name']} for {found['target']}; level {found['level']} runs here",
        table(
            [
                {
                    "variant": v["variant"],
                    "cost": f"{v['cost']:.3f}",
                    "bytes": v["bytes"],
                    "macs": v["macs"],
                    "accuracy": "not measured" if v["accuracy"] is None else f"{v['accuracy']:.1%}",
                    "unsure, then": v["then"] or "",
                }
                for v in found["variants"]
            ]
        ),
        "budget: "
        + ("none of its own, so any cost" if own is None else f"{own:g}, that of its run")
        + "; --budget N takes another, --budget inf any cost",
    ]
    if found["budgets"]:
        parts.append(
            table(
                [
                    {
                        "budget": rounded_up(b["budget"]),
                        "accuracy": f"{b['accuracy']:.1%}",
                        **({"largest cost": rounded_up(b["worst"])} if worst else {}),
                        "": "<- default" if b["default"] else "",
                    }
                    for b in found["budgets"]
                ]
            )
        )
    return Outcome(found, "\n".join(parts))


def _options(args) -> dict:
    return {"budget": args.budget, "level": args.level, "threads": args.threads}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime", description="Runs a bundle on this device.")
    commands = parser.add_subparsers(dest="command")
    for name, run, about in (
        ("check", _check, "replay the golden pictures: do all logits come out the same here?"),
        ("infer", _infer, "classify picture files"),
        ("bench", _bench, "measure latency"),
        ("info", _info, "what is in the bundle, and which of its code runs here?"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
        command.add_argument("bundle", nargs="?", type=Path, help="its folder; left out: the newest under ./bundles")
        command.add_argument("--json", metavar="FILE", help="write what was found there too")
        if name == "infer":
            command.add_argument(
                "pictures", nargs="*", type=Path, help="PNG, PPM, PGM, BMP, .npy, with Pillow any; or folders of them"
            )
            command.add_argument("--variant", help="run this one whatever the quality")
            command.add_argument("--no-escalate", action="store_true", help="one pass a picture, sure or not")
        if name in ("infer", "bench"):
            command.add_argument(
                "--budget",
                type=float,
                help="mean cost a picture may take, 1 = 8 bits everywhere, "
                "inf = any; left out: that of the bundle's run",
            )
            command.add_argument("--level", help="whose code to run; left out: the best that this machine can run")
            command.add_argument("--threads", type=int, default=1, help="that work on a picture together (default 1)")
        if name == "bench":
            command.add_argument("--calls", type=_count, default=200, help="calls of each step (default 200)")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _is_bundle(path: Path) -> bool:
    """Whether the first word of `infer` names a bundle; a folder without a manifest may hold pictures."""
    try:
        return (path / "manifest.json").is_file() or (path.is_dir() and not pictures_inside(path))
    except OSError:  # a name that no file system takes
        return False


def _opened(args) -> Path:
    """The bundle that was named, or the newest; `infer` without a bundle takes its first word for a picture."""
    picture = None
    if args.command == "infer" and args.bundle is not None and not _is_bundle(args.bundle):
        picture, args.bundle = args.bundle, None
        args.pictures.insert(0, picture)
    if args.bundle is not None:
        return args.bundle
    try:
        found = newest_bundle()
    except BundleError as error:
        if picture is None:
            raise
        raise BundleError(
            f"{picture}: taken for a picture, because it is no bundle; {error}: python -m runtime infer "
            f"BUNDLE {picture}"
        ) from error
    say(f"bundle: {found}")
    return found


def _require_writable(name: str, bundle: Path) -> None:
    """Raises ValueError where `_write` could not leave its file; nothing is left behind."""
    real = Path(os.path.realpath(name))
    try:
        if not name or real.is_dir():
            raise ValueError(f"--json {name!r}: expected the name of a file, got {'a folder' if name else 'nothing'}")
        if real.is_relative_to(os.path.realpath(bundle)):
            raise ValueError(f"--json {name!r}: expected a file outside the bundle, whose files stay as built")
        if not _is_device(real):
            with tempfile.TemporaryFile(dir=real.parent):
                pass
    except OSError as error:
        raise _unwritable(name, error) from error


def _write(name: str, found: list[dict] | dict) -> None:
    try:
        if _is_device(Path(name)):
            Path(name).write_text(json.dumps(found, indent=1) + "\n")
        else:
            write_json(name, found)
    except OSError as error:
        raise _unwritable(name, error) from error


def _is_device(path: Path) -> bool:
    """Whether there is something that is no file, such as a pipe: it is written to, never replaced."""
    return path.exists() and not path.is_file()


def _unwritable(name: str, error: OSError) -> ValueError:
    return ValueError(
        f"--json {name!r}: expected a file that can be written in an existing folder, got: {error.strerror}"
    )


def main(argv: list[str] | None = None) -> int:
    """0 when all went well, 1 when golden logits differ or a picture cannot be read, 2 for an error."""
    parser = _arguments()
    args, rest = parser.parse_known_args(argv)
    if args.command is None:
        say(parser.format_help().rstrip())
        return 0
    if rest and (args.command != "infer" or any(word.startswith("-") for word in rest)):
        parser.error(f"expected other arguments than {' '.join(rest)}; see --help")
    if args.command == "infer":
        args.pictures += map(Path, rest)  # those behind an option, which argparse leaves over
    try:
        args.bundle = _opened(args)
        if args.json is not None:
            _require_writable(args.json, args.bundle)
        outcome = args.run(args)
        if args.json is not None:
            _write(args.json, outcome.found)
        say(outcome.text)
    except (BundleError, ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for error in outcome.errors:
        print(f"error: {error}", file=sys.stderr)
    return outcome.code


if __name__ == "__main__":
    with terminal():
        status = main()
    sys.exit(status)
