"""Batches: a function of seed, phase, epoch and step, shared by processes, of all qualities or mostly one."""

import numpy as np
import pytest
import torch

from tests.support.searches import chance
from train.data.batches import Batches


def batches_of(views: np.ndarray, batch: int, share=(0, 1)) -> Batches:
    labels = np.arange(views.shape[1])
    batches = Batches(views, labels, batch=batch, pictures=0, seed=3, flip=True, device=torch.device("cpu"))
    return batches.for_process(*share)


def some_batches(share=(0, 1)) -> Batches:
    """Batches of 50 pictures whose first pixel is their number."""
    views = np.random.default_rng(0).integers(0, 256, (3, 50, 16, 16, 3), np.uint8)
    views[:, :, 0, 0, 0] = np.arange(50)
    return batches_of(views, 8, share)


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


def test_batches_of_one_quality_and_of_mostly_one():
    kinds = torch.randint(4, (3, 200), generator=chance())
    views = np.broadcast_to(kinds.numpy().astype(np.uint8)[..., None, None, None], (3, 200, 8, 8, 3))
    batches = batches_of(views, 10)
    (pictures, families), kind_of_batch = batches.alike("search", 2, kinds)
    assert pictures.shape == families.shape == (200,) and kind_of_batch.shape == (20,)
    assert torch.equal(kinds[families, pictures].view(20, 10), kind_of_batch[:, None].expand(20, 10))
    share = torch.bincount(kind_of_batch, minlength=4) / 20 - torch.bincount(kinds.flatten(), minlength=4) / 600
    assert float(share.abs().max()) <= 1 / 20
    again = batches_of(views, 10).alike("search", 2, kinds)
    assert torch.equal(again[0][0], pictures) and not torch.equal(batches.alike("search", 1, kinds)[0][0], pictures)
    pictures, families = batches.order("joint", 0, kinds == 2)
    own = float((kinds[families, pictures] == 2).float().mean())
    assert own == pytest.approx(0.75 + 0.25 / 4, abs=0.1)
    assert bool((batches.sample(7, kinds == 2) == 2).all())
