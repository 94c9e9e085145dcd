"""Chooses anew among the variants of a finished run, for another cost, target or budget, without any training."""

import os
import shutil
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from compile.source.run_folder import RUN_FILE, RunRecord, read_run
from runtime.files import write_json
from runtime.terminal import say
from train.bits import configs
from train.bits.cost import LayerCost, layer_cost, relative
from train.choice.arms import learn_choice
from train.choice.fit import Choice
from train.choice.scores import make_results
from train.evidence.evidence import OUTCOMES_FILE, Evidence
from train.evidence.metrics import METRICS_FILE
from train.evidence.results import write_results
from train.loop.run_folder import SETTINGS, alone, check_own, check_writable, clear
from train.network.architectures import ARCHITECTURES, Architecture, architecture
from train.recost.changes import Changes
from train.report.compare import compare
from train.report.does_it_pay import verdicts
from train.report.run_files import SAMPLES
from train.report.write import write_report
from train.settings.bits import COSTS

CARRIED = (METRICS_FILE, "full.safetensors", SAMPLES)  # files of a run that stay as they are
NOTHING = Changes()


@dataclass(frozen=True)
class Recosted:
    """A run with the costs of its variants, and all that follows from them, made anew; settings: those in force."""

    run: RunRecord
    configs: configs.Configs
    evidence: Evidence
    choice: Choice
    settings: dict[str, Any]


def recost(run: Path, out: Path, changes: Changes = NOTHING) -> Path:
    """Writes a run folder `out` with the variants of `run`, their costs, selector, budgets and results made anew.

    One trained family so serves boards of different speeds. Returns `out`. Raises ValueError for a folder that is no
    whole run, a cost that cannot be had, or `out` being `run`.
    """
    run, out = Path(run), Path(out)
    _require_other_folder(run, out)
    made = _make_anew(run, changes)
    files = [made.run.golden, *(v.onnx for v in made.run.variants)]
    missing = [name for name in files if not (run / name).is_file()]
    if missing:
        raise ValueError(f"{run}: expected its files {', '.join(missing[:3])}, not found; bring them back")
    check_writable("--out", out)
    with alone(out), tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=f".{out.name}.") as beside:
        new = Path(beside)
        _copy(run, new, [*files, *(f for f in CARRIED if (run / f).is_file())])
        made.configs.write(new)
        made.evidence.write(new)
        write_results(new, make_results(made.evidence, made.settings["seed"]))
        replace(made.run, name=out.absolute().name).write(new)
        write_report(new)
        write_json(out / SETTINGS, made.settings)  # first, since it says that the rest is a run's
        clear(out)
        _move(new, out)
    say("\n".join(verdicts(compare(made.evidence))))
    return out


def _require_other_folder(run: Path, out: Path) -> None:
    if out.resolve() == run.resolve():
        raise ValueError(f"--out {out}: expected another folder than the run's, whose files stay as they are")
    check_own(out)
    if (out / "checkpoint").exists():
        raise ValueError(
            f"--out {out}: expected a new folder, or one of an earlier recost, got a trained run's; name another"
        )


def _make_anew(folder: Path, changes: Changes) -> Recosted:
    """Everything of the new run, in memory."""
    run = read_run(folder)
    evidence = Evidence.read(folder)
    bit_configs = configs.read(folder / configs.CONFIGS_FILE)
    settings = _changed_settings(folder, run, changes)
    cost = layer_cost(settings["cost"], settings["target"])
    bit_configs = _with_costs(bit_configs, settings, cost, _architecture(folder, run))
    costs = {v.name: v.cost for v in bit_configs.variants}
    _require_same_variants(folder, costs, evidence, run)
    evidence = replace(evidence, variants=tuple(replace(v, cost=costs[v.name]) for v in evidence.variants))
    choice, evidence = learn_choice(
        evidence,
        settings["budget"],
        settings["seed"],
        escalate=settings["escalate"],
        unseen_loss=settings["unseen_loss"],
    )
    variants = tuple(replace(v, facts=replace(v.facts, cost=costs[v.name])) for v in run.variants)
    run = replace(run, variants=variants, choice=choice.record(), settings=settings)
    return Recosted(run, bit_configs, evidence, choice, settings)


def _with_costs(
    bit_configs: configs.Configs, settings: dict[str, Any], cost: LayerCost, arch: Architecture
) -> configs.Configs:
    """The configurations at other costs; some of a Pareto front are then beaten, and its order may be another."""

    def at_cost(variants: tuple[configs.Configuration, ...]) -> tuple[configs.Configuration, ...]:
        return tuple(replace(v, cost=relative(cost, arch, v.bits)) for v in variants)

    target = settings["target"] if settings["cost"] == "latency" else None
    about = {**bit_configs.about, "cost": settings["cost"], "target": target, "budget": settings["budget"]}
    return replace(
        bit_configs,
        about=about,
        variants=at_cost(bit_configs.variants),
        pareto=configs.pareto_front(at_cost(bit_configs.pareto)),
    )


def _architecture(folder: Path, run: RunRecord) -> Architecture:
    if run.arch not in ARCHITECTURES:
        raise ValueError(
            f"{folder / RUN_FILE}: expected an arch of {', '.join(ARCHITECTURES)}, got arch {run.arch!r}; "
            "bring the file back"
        )
    height, width, channels = run.shape
    return architecture(run.arch, (height, width, channels), len(run.labels))


def _changed_settings(folder: Path, run: RunRecord, changes: Changes) -> dict[str, Any]:
    """The run's settings with the changes. Raises ValueError where one that is used here is missing or damaged."""
    asked = {key: value for key, value in vars(changes).items() if value is not None}
    settings = {**run.settings, **asked}
    missing = sorted({f.name for f in fields(Changes)} - set(settings))
    if missing:
        raise ValueError(f"{folder}: an older run, which says nothing of {', '.join(missing)}; give them here")
    _check_settings(settings)
    return settings


def _check_settings(settings: dict[str, Any]) -> None:
    for name, whole in (("budget", "the cost of 8 bits"), ("unseen_loss", "the pictures")):
        share = settings[name]
        may_be_zero = name == "unseen_loss"
        if type(share) not in (int, float) or not (0 < share <= 1 or (share == 0 and may_be_zero)):
            raise ValueError(f"--{name.replace('_', '-')}: expected a share of {whole}, in 0..1, got {share!r}")
    if settings["cost"] not in COSTS:
        raise ValueError(f"--cost: expected one of {', '.join(COSTS)}, got {settings['cost']!r}")
    if not isinstance(settings["target"], str) or type(settings["escalate"]) is not bool:
        raise ValueError(
            f"--target, --escalate: expected a name, and true or false, got {settings['target']!r} and "
            f"{settings['escalate']!r}"
        )
    if type(settings.get("seed")) is not int or settings["seed"] < 0:
        raise ValueError(f"the run's settings: expected a seed of at least 0, got {settings.get('seed')!r}")


def _require_same_variants(folder: Path, costs: dict[str, float], evidence: Evidence, run: RunRecord) -> None:
    names = {OUTCOMES_FILE: {v.name for v in evidence.variants}, RUN_FILE: {v.name for v in run.variants}}
    for file, variants in names.items():
        if variants != set(costs):
            raise ValueError(
                f"{folder}: expected the variants of {configs.CONFIGS_FILE} in {file}, got others "
                f"({', '.join(sorted(variants ^ set(costs))[:3])}); the files are of different runs"
            )


def _copy(run: Path, out: Path, names: list[str]) -> None:
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / name, out / name)


def _move(new: Path, out: Path) -> None:
    """Moves all files, run.json last: with it the folder is a run."""
    for path in sorted((p for p in new.rglob("*") if p.is_file()), key=lambda p: p.name == RUN_FILE):
        to = out / path.relative_to(new)
        to.parent.mkdir(exist_ok=True)
        os.replace(path, to)
