"""Trains a family of networks: all phases of a run, from its pictures to trained variants."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from runtime.files import remove_leftovers, write_json
from train.bits.configs import Configs
from train.data.batches import Batches, Held
from train.data.datasets import Dataset, load, spread, thin
from train.data.views import mixed_views, training_views
from train.evidence.parts import digest
from train.kinds.finding import check_count
from train.loop.checkpoint import check_same_run
from train.loop.journal import Journal
from train.loop.parallel import Processes, join_processes, pick_device
from train.loop.run import Run
from train.loop.run_folder import (
    CHECKPOINT_FILE,
    CONFIG,
    SETTINGS,
    alone,
    check_own,
    check_writable,
    clear,
    without_traces,
)
from train.loop.session import Networks, Resume, Session
from train.network.network import Network
from train.phases.find_bits import BitSource
from train.phases.from_run import resume_from_run
from train.phases.full_precision import make_full_precision, make_teacher, train_full_precision
from train.phases.joint import train_jointly
from train.phases.private import train_private
from train.settings.config_file import write_config
from train.settings.settings import SHORT, Settings
from train.settings.table import settings_table

HELD_PICTURES = 1000  # of mixed quality, that training is watched by
OPERANDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # of --precision


@dataclass(frozen=True, eq=False)
class TrainedFamily:
    """What training leaves: the full-precision network, the student with all variants, and their configurations."""

    dataset: Dataset
    full_precision: Network
    student: Network
    configs: Configs
    device: torch.device


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that a run needs before its first step; views: degraded training pictures uint8 [F, N, H, W, 3].

    record: the settings that decide the result, as every checkpoint holds them.
    """

    dataset: Dataset
    record: dict[str, Any]
    networks: Networks
    bits: BitSource
    resume: Resume
    views: np.ndarray
    held: Held
    device: torch.device


def learn(settings: Settings) -> TrainedFamily | None:
    """Trains all phases of a run; returns the trained family, None in a process that does not write.

    Raises SettingsError, CheckpointError, ConfigsError or CostError before it trains, TrainingError where it cannot
    go on.
    """
    device = pick_device(settings.place.device)
    processes = join_processes(device)
    saved = Resume.from_folder(settings.folder) if settings.place.resume else Resume()
    console = Console(markup=False, stderr=True, quiet=not processes.writes)
    with _own_folder(settings, processes):
        console.print(settings_table(settings, str(device)))
        with processes.writer_first():
            prepared = prepare(settings, device, saved, console)
        session = open_session(settings, prepared, saved, processes, console)

        train_full_precision(session)
        configs = prepared.bits.find(session)
        student = train_jointly(session, configs)
        configs = train_private(session, configs, student)

        if session.run.journal is None:
            return None
        session.run.journal.close()
        return TrainedFamily(prepared.dataset, prepared.networks.full_precision, student, configs, device)


@contextmanager
def _own_folder(settings: Settings, processes: Processes) -> Iterator[None]:
    """Keeps other runs out of the folder of the writing process, after it was checked to be a run's or a new one.

    A folder that an error leaves empty is deleted if it was made here.
    """
    if not processes.writes:
        yield
        return
    check_own(settings.folder)
    with without_traces(settings.folder):
        for flag, folder in (("--out", settings.folder), ("--cache", settings.place.cache)):
            check_writable(flag, folder)
        with alone(settings.folder):
            remove_leftovers(settings.folder)
            yield


def prepare(settings: Settings, device: torch.device, saved: Resume, console: Console) -> Prepared:
    """Returns the pictures, networks and bits of a run, and where it goes on; it writes nothing but the cache.

    saved: what --resume goes on from. Raises CheckpointError, ConfigsError, CostError or ValueError for a run that
    cannot be trained as asked.
    """
    pictures = load(settings.data.dataset, settings.data.data, settings.place.cache, settings.data.size)
    dataset = thin(pictures, settings.data.limit)
    console.print(dataset.describe(), highlight=False, soft_wrap=True)
    record = {**settings.record(), "pictures": digest({}, dataset)[:SHORT]}
    if device.type == "cpu":
        record["threads"] = torch.get_num_threads()  # whose sums of floats come in another order for another number
    if saved.state is not None:
        check_same_run(saved.state.settings, record)
    full_precision = make_full_precision(settings, dataset, device)
    networks = Networks(full_precision, make_teacher(settings, dataset, full_precision, device))
    bits = BitSource.of(settings, full_precision.arch)
    resume = saved
    if settings.training.start is not None and saved.state is None:
        resume = resume_from_run(settings, full_precision.arch)
    check_count(settings.private.kinds, len(dataset.train_y))
    views, held = training_pictures(settings, dataset)
    return Prepared(dataset, record, networks, bits, resume, views, held, device)


def training_pictures(settings: Settings, dataset: Dataset) -> tuple[np.ndarray, Held]:
    """Returns degraded training pictures uint8 [F, N, H, W, 3], and held ones of mixed quality."""
    # Mixed, for folders come class by class, and searches judge by parts in this order: each needs all classes.
    rng = np.random.default_rng((settings.training.seed, *b"held"))
    chosen = rng.permutation(spread(len(dataset.val_y), HELD_PICTURES))
    options = (settings.data.training_families, settings.training.seed, settings.place.cache, settings.place.workers)
    views = training_views(dataset, *options)
    mixed = mixed_views(dataset.val_x[chosen], *options)[0]
    return views, Held(np.asarray(mixed), dataset.val_y[chosen])


def open_session(
    settings: Settings, prepared: Prepared, saved: Resume, processes: Processes, console: Console
) -> Session:
    """Returns what all phases of a run work with, after the folder and the journal were opened for writing."""
    batches = Batches(
        prepared.views,
        prepared.dataset.train_y,
        batch=settings.training.batch,
        pictures=settings.training.epoch_pictures,
        seed=settings.training.seed,
        flip=settings.data.mirrored,
        device=prepared.device,
    ).for_process(processes.rank, processes.count)
    run = Run(
        settings.folder,
        prepared.record,
        processes,
        open_journal(settings, saved, console) if processes.writes else None,
        console,
        60 * settings.place.checkpoint_minutes,
        operands=OPERANDS[settings.training.precision],
        fuses=settings.training.torch_compile,
        last_checkpoint=None if saved.state is None else settings.folder / CHECKPOINT_FILE,
    )
    return Session(settings, run, batches, prepared.held, prepared.networks, prepared.resume)


def open_journal(settings: Settings, saved: Resume, console: Console) -> Journal:
    """Writes a run's settings and returns its journal; without --resume an earlier run's files are deleted first.

    console: is told of lines that the run wrote after its last checkpoint, which come again.
    Raises JournalError where the journal that --resume goes on from is not the one that the checkpoint knows.
    """
    folder = settings.folder
    write_json(folder / SETTINGS, settings.record())  # first, since it says that the rest is a run's
    if saved.state is None:
        clear(folder)
    write_config(folder / CONFIG, settings)
    journal = Journal(folder, 0 if saved.state is None else saved.state.journal)
    if saved.state is not None and journal.dropped:
        words = f"{journal.dropped} bytes behind the last checkpoint were dropped; the run goes on from there"
        console.print(f"{journal.path}: {words}", highlight=False, soft_wrap=True)
    return journal
