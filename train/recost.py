"""Chooses anew among the variants of a finished run, for another cost, target or budget, without any training."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from runtime.files import write_json
from runtime.terminal import say, terminal
from train.bits import configs
from train.bits.cost import layer_cost, relative
from train.choice.arms import arm_records, choose
from train.evidence.evidence import NAME as OUTCOMES
from train.evidence.evidence import Evidence
from train.loop.run_folder import SETTINGS, alone, check_own, check_writable, clear
from train.network.architectures import ARCHITECTURES, architecture
from train.report.compare import compare
from train.report.does_it_pay import verdicts
from train.report.run_files import SAMPLES
from train.report.write import write_report
from train.settings.bits import COSTS
from train.settings.command_line import given_path

CHANGED = ("cost", "target", "budget", "escalate", "unseen_loss")  # of a run's settings
BESIDE = ("metrics.jsonl", "full.safetensors", SAMPLES)  # files of a run that stay as they are


def recost(run: Path, out: Path, **changes) -> Path:
    """Writes a run folder `out` with the variants of `run`, their costs, selector, budgets and results made anew.

    changes: of CHANGED, None for what the run had. One trained family so serves boards of different speeds. Returns
    `out`. Raises ValueError for a folder that is no whole run, a cost that cannot be had, or `out` being `run`.
    """
    run, out = Path(run), Path(out)
    if out.resolve() == run.resolve():
        raise ValueError(f"--out {out}: expected another folder than the run's, whose files stay as they are")
    check_own(out)
    if (out / "checkpoint").exists():
        raise ValueError(
            f"--out {out}: expected a new folder, or one of an earlier recost, got a trained run's; name another"
        )
    about, evidence, found = _about(run), Evidence.read(run), configs.read(run / configs.CONFIGS_FILE)
    settings = {**about["settings"], **{k: v for k, v in changes.items() if v is not None}}
    missing = sorted(set(CHANGED) - set(settings))
    if missing:
        raise ValueError(f"{run}: an older run, which says nothing of {', '.join(missing)}; give them here")
    _check(settings)
    arch = architecture(about["arch"], tuple(about["input"]["shape"]), len(about["labels"]))
    cost = layer_cost(settings["cost"], settings["target"])

    def priced(variants):
        return tuple(replace(v, cost=relative(cost, arch, v.bits)) for v in variants)

    target = settings["target"] if settings["cost"] == "latency" else None
    costs = {"cost": settings["cost"], "target": target, "budget": settings["budget"]}
    # A Pareto list is one in the cost it was found by; in another, some are beaten and the order may be another.
    found = replace(
        found,
        about={**found.about, **costs},
        variants=priced(found.variants),
        pareto=configs.pareto_front(priced(found.pareto)),
    )
    prices = {v.name: v.cost for v in found.variants}
    _check_names(run, prices, evidence, about)
    evidence = replace(evidence, variants=tuple(replace(v, cost=prices[v.name]) for v in evidence.variants))
    choice, evidence = choose(
        evidence, settings["budget"], settings["seed"], escalate=settings["escalate"], most=settings["unseen_loss"]
    )
    variants = [{**v, "cost": prices[v["name"]]} for v in about["variants"]]
    files = [about["golden"], *(v["onnx"] for v in variants)]
    missing = [name for name in files if not (run / name).is_file()]
    if missing:
        raise ValueError(f"{run}: expected its files {', '.join(missing[:3])}, not found; bring them back")
    check_writable("--out", out)
    with alone(out), tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=f".{out.name}.") as beside:
        new = Path(beside)
        found.write(new)
        evidence.write(new)
        _copy(run, new, [*files, *(f for f in BESIDE if (run / f).is_file())])
        write_json(new / "results.json", arm_records(evidence, settings["seed"]))
        write_json(
            new / "run.json",
            {**about, "variants": variants, **choice.to_dict(), "name": out.absolute().name, "settings": settings},
        )
        write_report(new)
        write_json(out / SETTINGS, settings)  # first, since it says that the rest is a run's
        clear(out)
        _move(new, out)
    say("\n".join(verdicts(compare(evidence))))
    return out


def _about(run: Path) -> dict:
    """run.json, with what is needed of it."""
    try:
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
        shape = about["input"]["shape"]
        right = {
            "arch": about["arch"] in ARCHITECTURES,
            "labels": len(about["labels"]) > 1,
            "input": len(shape) == 3 and all(type(n) is int for n in shape),
            "golden": isinstance(about["golden"], str),
            "settings": isinstance(about["settings"], dict),
            "variants": all(isinstance(v[key], str) for v in about["variants"] for key in ("name", "onnx")),
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run}: expected a finished run with its settings ({error!r})") from error
    wrong = [f"{k} {str(about[k])[:80]!r}" for k in right if not right[k]]
    if wrong:
        raise ValueError(f"{run / 'run.json'}: not what a finished run leaves: {', '.join(wrong)}; bring the file back")
    return about


def _check(settings: dict) -> None:
    """Of a run's settings, damaged or given, those that are used here."""
    for name, most in (("budget", "the cost of 8 bits"), ("unseen_loss", "the pictures")):
        share = settings[name]
        if type(share) not in (int, float) or not (0 < share <= 1 or (share == 0 and name == "unseen_loss")):
            raise ValueError(f"--{name.replace('_', '-')}: expected a share of {most}, in 0..1, got {share!r}")
    if settings["cost"] not in COSTS:
        raise ValueError(f"--cost: expected one of {', '.join(COSTS)}, got {settings['cost']!r}")
    if not isinstance(settings["target"], str) or type(settings["escalate"]) is not bool:
        raise ValueError(
            f"--target, --escalate: expected a name, and true or false, got {settings['target']!r} and "
            f"{settings['escalate']!r}"
        )
    if type(settings.get("seed")) is not int or settings["seed"] < 0:
        raise ValueError(f"the run's settings: expected a seed of at least 0, got {settings.get('seed')!r}")


def _check_names(run: Path, prices: dict[str, float], evidence: Evidence, about: dict) -> None:
    for name, given in (
        (OUTCOMES, [v.name for v in evidence.variants]),
        ("run.json", [v["name"] for v in about["variants"]]),
    ):
        if set(given) != set(prices):
            raise ValueError(
                f"{run}: expected the variants of {configs.CONFIGS_FILE} in {name}, got others "
                f"({', '.join(sorted(set(given) ^ set(prices))[:3])}); the files are of different runs"
            )


def _copy(run: Path, out: Path, names: list[str]) -> None:
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / name, out / name)


def _move(new: Path, out: Path) -> None:
    """All files, run.json last: with it the folder is a run."""
    for path in sorted((p for p in new.rglob("*") if p.is_file()), key=lambda p: p.name == "run.json"):
        to = out / path.relative_to(new)
        to.parent.mkdir(exist_ok=True)
        os.replace(path, to)


def parse(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(prog="python -m train.recost", description=sys.modules[__name__].__doc__)
    parser.add_argument("run", type=given_path, metavar="RUN", help="folder of a finished run, with its outcomes.npz")
    parser.add_argument("--out", type=given_path, required=True, help="folder of the run that is made")
    parser.add_argument("--cost", choices=COSTS, help="what the budget counts; as the run's when not given, as below")
    parser.add_argument("--target", help="hardware whose measured table --cost latency takes")
    parser.add_argument("--budget", type=float, help="mean cost allowed, of that of 8 bits")
    parser.add_argument(
        "--escalate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let a dearer variant look again where the chosen is unsure",
    )
    parser.add_argument("--unseen-loss", type=float, help="accuracy (0..1) that a kind of quality never seen may lose")
    return vars(parser.parse_args(arguments))


if __name__ == "__main__":
    with terminal():
        try:
            say(f"run: {recost(**parse())}")
        except (ValueError, OSError) as problem:
            sys.exit(str(problem))
