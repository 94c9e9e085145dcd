"""Training as a whole: settings, order of the data, given weights, kill and resume, two processes, and a small run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compile.qdq.importer import load as load_onnx
from targets.reference import interpreter
from train import learn as learning
from train.data.batches import Batches
from train.data.datasets import load, spread, thin
from train.data.views import evaluation_views
from train.loop import checkpoint
from train.loop.journal import Journal, JournalError
from train.loop.parallel import Group
from train.loop.phase import Phase, Run, TrainingError, learning_rate, train
from train.network.architectures import architecture
from train.network.network import FULL, Network
from train.network.weights import load_weights
from train.run import run_training
from train.settings.command_line import parse

LEARN = """
import sys
from train.learn import learn
from train.settings.command_line import parse
learn(parse(sys.argv[1:]))
"""
SMALL = ["--limit", "96", "--batch", "32", "--epochs", "2", "--families", "clean,contrast", "--workers", "1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}


def some_batches(share=(0, 1), device="cpu") -> Batches:
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (3, 50, 16, 16, 3), np.uint8)
    views[:, :, 0, 0, 0] = np.arange(50)
    return Batches(
        views, np.arange(50), batch=8, pictures=0, seed=3, flip=True, device=torch.device(device)
    ).for_process(*share)


def test_batches_are_a_function_of_seed_epoch_and_step():
    batches = some_batches()
    order = batches.order("joint", 2)
    again = some_batches().get(some_batches().order("joint", 2), "joint", 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(batches.get(order, "joint", 2, 4), again, strict=True))
    assert not torch.equal(batches.get(order, "joint", 2, 3)[0], again[0])
    assert not torch.equal(order[0], batches.order("joint", 1)[0])
    assert sorted(order[0].tolist()) == list(range(50)) and np.ptp(np.bincount(order[1])) <= 1


def test_processes_share_each_batch():
    whole = some_batches().get(some_batches().order("full", 0), "full", 0, 1)
    parts = [some_batches((rank, 2)).get(some_batches().order("full", 0), "full", 0, 1) for rank in (0, 1)]
    for kind in (0, 1):
        assert torch.equal(torch.stack([parts[0][kind], parts[1][kind]], 1).flatten(0, 1), whole[kind])


def test_crops_are_reflections_of_the_picture():
    batches = some_batches()
    order = batches.order("full", 0)
    pictures, labels = batches.get(order, "full", 0, 0)
    for picture, label, family in zip(pictures.numpy(), labels.numpy(), order[1].numpy(), strict=False):
        padded = np.pad(batches.views[family, label], ((2, 2), (2, 2), (0, 0)), mode="reflect")
        crops = [padded[i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        assert any(np.array_equal(picture, c) or np.array_equal(picture, c[:, ::-1]) for c in crops)


def test_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(s, 200, 0.1) for s in range(200)]
    assert max(rates) == 0.1 and rates[0] < 0.02 and rates[-1] < 1e-4 and rates.index(0.1) == 9


class PlainResNet8(torch.nn.Module):
    """MLPerf Tiny's network as published: raw codes in, TensorFlow padding."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.ModuleList([torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.BatchNorm2d(16, eps=1e-3)])
        self.stages, self.linear = torch.nn.ModuleList(), torch.nn.Linear(64, 10)
        for i, o, s in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            self.stages.append(
                torch.nn.ModuleList(
                    [
                        torch.nn.Conv2d(i, o, 3, s, bias=False),
                        torch.nn.BatchNorm2d(o, eps=1e-3),
                        torch.nn.Conv2d(o, o, 3, bias=False),
                        torch.nn.BatchNorm2d(o, eps=1e-3),
                    ]
                    + ([torch.nn.Conv2d(i, o, 1, s)] if s > 1 else [])
                )
            )

    @staticmethod
    def same(x, conv):
        k, s, h = conv.kernel_size[0], conv.stride[0], x.shape[-1]
        p = max((-(-h // s) - 1) * s + k - h, 0)
        return conv(F.pad(x, (p // 2, p - p // 2, p // 2, p - p // 2)))

    def forward(self, x):
        x = F.relu(self.stem[1](self.same(x, self.stem[0])))
        for conv1, bn1, conv2, bn2, *shortcut in self.stages:
            y = bn2(self.same(F.relu(bn1(self.same(x, conv1))), conv2))
            x = F.relu(y + (shortcut[0](x) if shortcut else x))
        return self.linear(x.mean((2, 3)))

    def published(self) -> dict:
        names = {"stem.0": "conv1", "stem.1": "bn1", "linear": "linear"}
        for k in range(3):
            inner = ("conv1", "bn1", "conv2", "bn2", "shortcut")
            names |= {f"stages.{k}.{i}": f"block{k + 1}.{n}" for i, n in enumerate(inner)}
        return {f"{names[n.rsplit('.', 1)[0]]}.{n.rsplit('.', 1)[1]}": t for n, t in self.state_dict().items()}


def test_given_weights_compute_the_published_function(tmp_path):
    torch.manual_seed(0)
    plain, images = PlainResNet8(), torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    raw = images.permute(0, 3, 1, 2).float()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.normal_(0, 1)  # of both signs
            module.bias.data.normal_(0, 0.3)
    for _ in range(30):
        plain(raw)  # running statistics
    torch.save(plain.eval().published(), tmp_path / "tiny.pt")
    net = Network(architecture("resnet8", (32, 32, 3), 10), {})
    load_weights(net, tmp_path / "tiny.pt")
    with torch.no_grad():
        expected, came = plain(raw), net.eval()(images)
    # float32 in another order of operations: a relative error of some 1e-6 a layer
    assert torch.allclose(came, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert all(m.weight.min() > 0 for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    with pytest.raises(ValueError, match="is no checkpoint of resnet20.*give the --arch"):
        load_weights(Network(architecture("resnet20", (32, 32, 3), 10), {}), tmp_path / "tiny.pt")


def test_a_loss_that_is_not_finite_stops_with_its_place(tmp_path):
    net = Network(architecture("resnet8", (16, 16, 3), 50), {})
    net.convs["linear"].weight.data[0] = float("nan")
    run = Run(tmp_path, {}, Group(rank=1), None, 1e9, None)
    told = "phase full, epoch 1, step 1 .full nan.*in layer linear.*no checkpoint yet.*--lr"
    with pytest.raises(TrainingError, match=told):
        train(Phase("full", net, (FULL,), 1, 1e-3), some_batches(), run, None, lambda phase: {})


def learn(folder, cache, *more, launcher=(sys.executable,)):
    return subprocess.Popen(
        [
            *launcher,
            *(("-c", LEARN) if launcher == (sys.executable,) else ()),
            *SMALL,
            "--out",
            str(folder),
            "--cache",
            str(cache),
            *more,
        ],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process) -> str:
    try:
        output, _ = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it started
        raise
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(run folder, cache) of a small training run."""
    folder, cache = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cache")
    finished(learn(folder, cache))
    return folder, cache


@pytest.mark.parametrize("phase,step", [("full", 2), ("joint", 4)])
def test_kill_and_resume_end_with_the_same_bytes(uninterrupted, tmp_path, phase, step):
    folder, cache = uninterrupted
    process = learn(tmp_path, cache, "--checkpoint-minutes", "0")
    while process.poll() is None and not reached(tmp_path, phase, step):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.stdout.read()
    finished(learn(tmp_path, cache, "--resume"))
    ours, theirs = checkpoint.load(tmp_path), checkpoint.load(folder)
    assert ours[0].keys() == theirs[0].keys() and ours[1] == theirs[1]
    for name, tensor in ours[0].items():
        assert torch.equal(tensor, theirs[0][name]), name
    assert (tmp_path / checkpoint.NAME).read_bytes() == (folder / checkpoint.NAME).read_bytes()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    steps = [e.step for e in board.Scalars("joint/loss/w4a4")]
    assert steps == sorted(set(steps)) and steps


def reached(folder, phase: str, step: int) -> bool:
    if not (folder / checkpoint.NAME).exists():
        return False
    with safe_open(folder / checkpoint.NAME, "pt") as file:
        state = json.loads(json.loads(file.metadata()[checkpoint.ABOUT])["state"])
    return state["phase"] == phase and 3 * state.get("epoch", 0) + state.get("step", 0) >= step


def test_resume_refuses_other_settings(uninterrupted):
    folder, cache = uninterrupted
    with pytest.raises(checkpoint.CheckpointError, match="bits was '8,4,2' and is '4'"):
        run_training(parse([*SMALL, "--out", str(folder), "--cache", str(cache), "--resume", "--bits", "4"]))
    with pytest.raises(checkpoint.CheckpointError, match="start without --resume"):
        run_training(parse([*SMALL, "--out", str(folder / "other"), "--cache", str(cache), "--resume"]))


def test_resume_brings_lost_and_damaged_files_back(uninterrupted, tmp_path):
    folder, cache = uninterrupted
    again = shutil.copytree(folder, tmp_path / "again")
    (again / "full.safetensors").unlink()
    (again / "configs.json").write_text("{")
    learning.learn(parse([*SMALL, "--out", str(again), "--cache", str(cache), "--resume"]))
    for name in ("full.safetensors", "configs.json", "metrics.jsonl"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("found", [None, b"", b'{"phase": "joint"}\n', b"x" * 9999])
def test_resume_refuses_a_journal_that_lost_records(tmp_path, found):
    if found is not None:
        (tmp_path / "metrics.jsonl").write_bytes(found)
    with pytest.raises(JournalError, match="expected the 40 bytes of .*metrics.jsonl.* start without"):
        Journal(tmp_path, 40)
    assert found is None or (tmp_path / "metrics.jsonl").read_bytes() == found


def test_two_processes_train_as_one(uninterrupted, tmp_path):
    folder, cache = uninterrupted
    script = tmp_path / "learn.py"
    script.write_text(LEARN)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    finished(learn(tmp_path / "two", cache, launcher=launcher))
    one, two = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (folder, tmp_path / "two")
    )
    assert [(r["phase"], r["step"]) for r in one] == [(r["phase"], r["step"]) for r in two]  # one writer
    first = [r for r in one + two if r["phase"] == "full" and r["step"] == 1]
    # Same weights and pictures; but batch norms see half of 32 pictures each: the first loss moves by some percent.
    assert first[1]["loss/full"] == pytest.approx(first[0]["loss/full"], rel=0.1)
    last = [[r for r in records if "loss/w8a8" in r][-1] for records in (one, two)]
    assert last[1]["loss/w8a8"] == pytest.approx(last[0]["loss/w8a8"], rel=0.35)  # and over 12 steps the paths part


def test_a_run_prints_what_its_files_compute(tmp_path):
    settings = parse(
        [
            "--limit",
            "64",
            "--batch",
            "32",
            "--epochs",
            "1",
            "--families",
            "clean,contrast,jpeg",
            "--bits",
            "8,3",
            "--hold-out",
            "pixelate",
            "--test-pictures",
            "20",
            "--workers",
            "1",
            "--cache",
            str(tmp_path / "cache"),
            "--out",
            str(tmp_path / "run"),
        ]
    )
    run_training(settings)
    folder = tmp_path / "run"
    records = json.loads((folder / "results.json").read_text())
    assert {"arm", "variant", "family", "severity", "heldout", "pictures", "correct", "cost", "seed", "stderr"} == set(
        records[0]
    )
    data = thin(load("digits", None, settings.place.cache), 64)
    chosen = spread(len(data.test_y), 20)
    views = evaluation_views(data.test_x[chosen], ("clean", "jpeg", "contrast", "pixelate"), 0, settings.place.cache, 1)
    about = json.loads((folder / "run.json").read_text())
    for variant in about["variants"]:
        graph = load_onnx(folder / variant["onnx"])
        for (family, severity), pictures in views.items():
            right = int((interpreter.run(graph, np.asarray(pictures)).argmax(1) == data.test_y[chosen]).sum())
            place = ("fixed", variant["name"], family, severity)
            (record,) = (r for r in records if (r["arm"], r["variant"], r["family"], r["severity"]) == place)
            assert record["correct"] == right and record["cost"] == variant["cost"] and record["pictures"] == 20
            assert record["heldout"] == (family == "pixelate")
    assert about["variants"][0]["cost"] == 1.0 and about["variants"][1]["cost"] < 0.25
    costs = {arm: [r["cost"] * r["pictures"] for r in records if r["arm"] == arm] for arm in ("adaptive", "random")}
    assert sum(costs["adaptive"]) == pytest.approx(sum(costs["random"]), rel=1e-9)  # equal but for summation order
