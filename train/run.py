"""Trains a family of integer networks: pictures in, a run folder with one ONNX file a variant out."""

import os
import sys

import numpy as np
import torch
from rich.console import Console

from runtime.files import write_json
from runtime.terminal import terminal
from train.data.batches import Batches, Held
from train.data.datasets import Dataset, load, spread, thin
from train.data.views import mixed_views, training_views
from train.evidence.gather import digest
from train.finish import finish
from train.kinds.groups import check_count
from train.loop import checkpoint
from train.loop.allocator import keep_freed_memory
from train.loop.journal import Journal
from train.loop.parallel import Group, join, leave, pick_device
from train.loop.phase import Run, TrainingError
from train.loop.run_folder import SETTINGS, alone, check_own, clear, writable
from train.phases import find_bits, from_run, full_precision, joint, private
from train.settings import SHORT, Settings, parse

HELD_PICTURES = 1000  # of mixed quality, to watch training
MIRRORED = {"digits": False}  # data sets whose classes a mirror would change


def main(settings: Settings) -> None:
    """The way of one run. Raises what its parts raise."""
    learned = learn(settings)
    if learned is not None:
        with alone(settings.folder):
            finish(settings, *learned)


def learn(settings: Settings):
    """All up to training's end: (dataset, teacher, student, configurations, device), None where another writes."""
    device = pick_device(settings.device)
    group = join(device)
    saved = checkpoint.load(settings.folder) if settings.resume else None
    if not group.writes:
        return _learn(settings, device, group, saved)
    check_own(settings.folder)
    for flag, folder in (("--out", settings.folder), ("--cache", settings.cache)):
        writable(flag, folder)
    with alone(settings.folder):
        return _learn(settings, device, group, saved)


def _learn(settings: Settings, device: torch.device, group: Group, saved):
    console = Console(markup=False, stderr=True, quiet=not group.writes)
    _show(settings, device, console)

    with group.writer_first():
        dataset = thin(load(settings.dataset, settings.data, settings.cache, settings.size), settings.limit)
        console.print(dataset.describe(), highlight=False, soft_wrap=True)
        record = {**settings.record(), "pictures": digest({}, dataset)[:SHORT]}
        if saved is not None:
            checkpoint.check_same_run(saved[1]["settings"], record)
        teacher = full_precision.full_network(settings, dataset, device)
        tutor = full_precision.tutor(settings, dataset, teacher, device)
        bits = find_bits.Bits.of(settings, teacher.arch)
        begun = from_run.joined(settings, teacher.arch) if settings.start and saved is None else None
        check_count(settings.groups, len(dataset.train_y))
        views, held = training_pictures(settings, dataset)
    batches = Batches(
        views,
        dataset.train_y,
        batch=settings.batch,
        pictures=settings.epoch_pictures,
        seed=settings.seed,
        flip=MIRRORED.get(dataset.name, True),
        device=device,
        share=(group.rank, group.processes),
    )
    run = Run(
        settings.folder,
        record,
        group,
        journal(settings, group, saved),
        60 * settings.checkpoint_minutes,
        console,
        operands=getattr(torch, settings.precision),
        fuses=settings.torch_compile,
    )
    resumed = begun
    if saved is not None:
        resumed = {**saved[1], "tensors": saved[0]}
        run.last_checkpoint = run.folder / checkpoint.NAME
    full_precision.full_precision(settings, run, batches, teacher, held, resumed)
    bits.find(run, batches, teacher, tutor, held, resumed)
    student = joint.joint(settings, run, batches, teacher, tutor, held, resumed)
    private.specialize(settings, run, batches, tutor, student, held, resumed)
    if not group.writes:
        return None
    run.journal.close()
    return dataset, teacher, student, run.configs, device


def training_pictures(settings: Settings, dataset: Dataset) -> tuple[np.ndarray, Held]:
    """Degraded training pictures uint8 [F, N, H, W, 3], and held ones."""
    # Mixed, for folders come class by class, and searches judge by parts in this order: each needs all classes.
    chosen = np.random.default_rng((settings.seed, *b"held")).permutation(spread(len(dataset.val_y), HELD_PICTURES))
    options = (settings.training_families, settings.seed, settings.cache, settings.workers)
    views = training_views(dataset, *options)
    mixed = mixed_views(dataset.val_x[chosen], *options)[0]
    return views, Held(np.asarray(mixed), dataset.val_y[chosen])


def journal(settings: Settings, group: Group, saved) -> Journal | None:
    """The journal of the writing process; without --resume an earlier run in the folder is no longer one."""
    if not group.writes:
        return None
    folder = settings.folder
    write_json(folder / SETTINGS, settings.record())  # first, since it says that the rest is a run's
    if saved is None:
        clear(folder)
    return Journal(folder, 0 if saved is None else saved[1]["journal"])


def _show(settings: Settings, device: torch.device, console: Console) -> None:
    taken = {
        **settings.record(),
        "out": settings.folder,
        "cache": settings.cache,
        "data": settings.data,
        "device": device,
    }
    console.print("settings: " + ", ".join(f"{k}={v}" for k, v in taken.items()), highlight=False, soft_wrap=True)


def _threads() -> None:
    """All cores this process may use, unless the environment says otherwise (torchrun says one)."""
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    with terminal("; the same command with --resume goes on from the last checkpoint"):
        try:
            _threads()
            keep_freed_memory()
            main(parse())
        except (TrainingError, ValueError, OSError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
        finally:
            leave()
