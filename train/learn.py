"""Learns a family of networks: all phases of a run from its pictures to trained variants."""

import numpy as np
import torch
from rich.console import Console

from runtime.files import write_json
from train.data.batches import Batches, Held
from train.data.datasets import Dataset, load, spread, thin
from train.data.views import mixed_views, training_views
from train.evidence.parts import digest
from train.kinds.groups import check_count
from train.loop import checkpoint
from train.loop.journal import Journal
from train.loop.parallel import Group, join, pick_device
from train.loop.phase import Run
from train.loop.run_folder import CONFIG, SETTINGS, alone, check_own, clear, writable
from train.phases import find_bits, from_run, full_precision, joint, private
from train.settings.config_file import write_config
from train.settings.settings import SHORT, Settings
from train.settings.table import settings_table

HELD_PICTURES = 1000  # of mixed quality, to watch training


def learn(settings: Settings):
    """All up to training's end: (dataset, teacher, student, configurations, device), None where another writes."""
    device = pick_device(settings.place.device)
    group = join(device)
    saved = checkpoint.load(settings.folder) if settings.place.resume else None
    if not group.writes:
        return _learn(settings, device, group, saved)
    check_own(settings.folder)
    for flag, folder in (("--out", settings.folder), ("--cache", settings.place.cache)):
        writable(flag, folder)
    with alone(settings.folder):
        return _learn(settings, device, group, saved)


def _learn(settings: Settings, device: torch.device, group: Group, saved):
    console = Console(markup=False, stderr=True, quiet=not group.writes)
    console.print(settings_table(settings, str(device)))
    with group.writer_first():
        dataset = thin(
            load(settings.data.dataset, settings.data.data, settings.place.cache, settings.data.size),
            settings.data.limit,
        )
        console.print(dataset.describe(), highlight=False, soft_wrap=True)
        record = {**settings.record(), "pictures": digest({}, dataset)[:SHORT]}
        if saved is not None:
            checkpoint.check_same_run(saved[1]["settings"], record)
        teacher = full_precision.full_network(settings, dataset, device)
        tutor = full_precision.tutor(settings, dataset, teacher, device)
        bits = find_bits.Bits.of(settings, teacher.arch)
        begun = from_run.joined(settings, teacher.arch) if settings.training.start and saved is None else None
        check_count(settings.private.kinds, len(dataset.train_y))
        views, held = training_pictures(settings, dataset)
    batches = Batches(
        views,
        dataset.train_y,
        batch=settings.training.batch,
        pictures=settings.training.epoch_pictures,
        seed=settings.training.seed,
        flip=settings.data.mirrored,
        device=device,
        share=(group.rank, group.processes),
    )
    run = Run(
        settings.folder,
        record,
        group,
        journal(settings, group, saved),
        60 * settings.place.checkpoint_minutes,
        console,
        operands=getattr(torch, settings.training.precision),
        fuses=settings.training.torch_compile,
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
    chosen = np.random.default_rng((settings.training.seed, *b"held")).permutation(
        spread(len(dataset.val_y), HELD_PICTURES)
    )
    options = (settings.data.training_families, settings.training.seed, settings.place.cache, settings.place.workers)
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
    write_config(folder / CONFIG, settings)
    return Journal(folder, 0 if saved is None else saved[1]["journal"])
