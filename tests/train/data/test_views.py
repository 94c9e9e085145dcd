"""Views of data sets are `degrade` picture by picture; workers, chunks and broken cache files change nothing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from train.data import degradations, views
from train.data.dataset import Dataset
from train.data.degradations import degrade
from train.data.names import FAMILIES
from train.data.views import evaluation_views, mixed_views, severities, training_views
from train.learn import training_pictures
from train.search.judging import split_held
from train.settings.settings import Settings


def picture(seed):
    """Something smooth, in colour."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC))


def dataset(n=70):
    x, y = np.stack([picture(k) for k in range(n)]), np.arange(n) % 3
    return Dataset("test", ("a", "b", "c"), x, y, x[:9], y[:9], x[:9], y[:9])


def test_training_views_are_degrade_in_balanced_shares(tmp_path):
    data, families = dataset(), ("clean", "jpeg", "gaussian_noise")
    out = training_views(data, families, 5, tmp_path, workers=1)
    severity = severities(70, families, 5)
    assert out.shape == (3, 70, 32, 32, 3) and np.array_equal(out[0], data.train_x) and not severity[0].any()
    for f in (1, 2):
        assert np.bincount(severity[f]).tolist() == [0] + [14] * 5
        assert not np.array_equal(severity[f], np.sort(severity[f]))
        for k in range(70):
            assert np.array_equal(out[f, k], degrade(data.train_x[k], families[f], severity[f, k], (5 << 32) + k))


def test_evaluation_and_mixed_views(tmp_path):
    x = dataset().train_x[:12]
    out = evaluation_views(x, FAMILIES, 1, tmp_path, workers=1)
    assert list(out)[:2] == [("clean", 0), ("gaussian_noise", 1)] and len(out) == 46
    for (family, severity), view in out.items():
        assert np.array_equal(view, [degrade(p, family, severity, (1 << 32) + k) for k, p in enumerate(x)])
    mixed, family, severity = mixed_views(x, FAMILIES, 1, tmp_path, workers=1)
    assert set(severity[family == 0]) <= {0} and (severity[family > 0] > 0).all()
    for k in range(12):
        assert np.array_equal(mixed[k], degrade(x[k], FAMILIES[family[k]], int(severity[k]), (1 << 32) + k))


def test_views_do_not_depend_on_workers_or_chunks(tmp_path, monkeypatch):
    data = dataset(100)
    alone = np.array(training_views(data, FAMILIES[:3], 0, tmp_path / "a", workers=1))
    monkeypatch.setattr(views, "FEW", 1)
    monkeypatch.setattr(views, "CHUNK", 17)
    assert np.array_equal(training_views(data, FAMILIES[:3], 0, tmp_path / "b", workers=2), alone)


def test_the_cache_is_used_and_knows_what_it_holds(tmp_path, monkeypatch):
    data, made = dataset(), []
    original = degradations.degrade

    def degrade_and_count(*arguments):
        made.append(1)
        return original(*arguments)

    monkeypatch.setattr(degradations, "degrade", degrade_and_count)

    def count(*arguments, **change):
        made.clear()
        training_views(*arguments, tmp_path, workers=1, **change)
        return len(made)

    families = ("clean", "contrast")
    assert count(data, families, 0) == 140 and count(data, families, 0) == 0
    assert count(data, families, 1) == 140 and count(data, families[::-1], 0) == 140
    other = Dataset("test", data.labels, data.train_x[:, ::-1].copy(), *list(vars(data).values())[3:])
    assert count(other, families, 0) == 140
    monkeypatch.setattr(degradations, "VERSION", 99)
    assert count(data, families, 0) == 140
    assert {p.suffix for p in tmp_path.iterdir()} == {".npy", ".json"} and len(list(tmp_path.iterdir())) == 10


def damages():
    def flip(path):
        raw = bytearray(path.read_bytes())
        raw[-5000] ^= 1
        path.write_bytes(raw)

    def header(path, text):
        raw = path.read_bytes()
        path.write_bytes(raw[:8] + len(text).to_bytes(2, "little") + text + raw[10 + len(text) :])

    def folder(path):
        path.unlink()
        (path / "inside").mkdir(parents=True)

    return {
        "a flipped bit": flip,
        "cut short": lambda p: p.write_bytes(p.read_bytes()[:-100]),
        "empty": lambda p: p.write_bytes(b""),
        "not numpy": lambda p: p.write_text("hello"),
        "a pickle": lambda p: np.save(p, np.array([{}], object), allow_pickle=True),
        "other shape": lambda p: np.save(p, np.zeros((2, 3), np.uint8)),
        "no description": lambda p: p.with_suffix(".json").unlink(),
        "bad description": lambda p: p.with_suffix(".json").write_text("[1"),
        "other description": lambda p: p.with_suffix(".json").write_text(json.dumps({"made_of": {}, "crc32": []})),
        "no pictures": lambda p: p.unlink(),
        "a header that ends early": lambda p: header(p, b"{'descr': '|u1', 'shape': ("),
        "a header of brackets": lambda p: header(p, b"(" * 300),
        "a header of a petabyte": lambda p: header(p, b"{'descr': '|u1', 'fortran_order': False, 'shape': (1<<50,)}"),
        "deep description": lambda p: p.with_suffix(".json").write_text("[" * 100_000),
        "description in no text": lambda p: p.with_suffix(".json").write_bytes(b"\xff\xfe{"),
        "a folder": lambda p: folder(p),
        "a folder for a description": lambda p: folder(p.with_suffix(".json")),
    }


@pytest.mark.parametrize("kind", damages())
def test_a_broken_cache_is_made_anew(tmp_path, kind):
    expected = np.array(training_views(dataset(), ("jpeg",), 0, tmp_path, workers=1))
    (path,) = tmp_path.glob("*.npy")
    damages()[kind](path)
    assert np.array_equal(training_views(dataset(), ("jpeg",), 0, tmp_path, workers=1), expected)
    assert np.array_equal(np.load(path), expected)


def test_what_a_killed_process_left_is_removed(tmp_path):
    training_views(dataset(), ("jpeg",), 0, tmp_path, workers=1)
    (path,) = tmp_path.glob("*.npy")
    path.unlink()
    (tmp_path / f"{path.stem}.999999999.tmp.npy").write_bytes(b"half")
    training_views(dataset(), ("jpeg",), 0, tmp_path, workers=1)
    assert len(list(tmp_path.iterdir())) == 2


def test_views_refuse_what_they_cannot_do(tmp_path):
    for families in ((), ("clean", "clean"), ("fog",)):
        with pytest.raises(ValueError, match="families"):
            training_views(dataset(), families, 0, tmp_path, workers=1)
    with pytest.raises(ValueError, match="pictures uint8"):
        evaluation_views(np.zeros((2, 8, 8)), ("jpeg",), 0, tmp_path)


def test_every_part_of_the_held_pictures_has_all_classes(tmp_path):
    """Also of data that come class by class."""
    labels = np.repeat(np.arange(10), 60)
    pictures = np.repeat(labels, 64 * 3).reshape(-1, 8, 8, 3).astype(np.uint8)
    dataset = Dataset("sorted", tuple("0123456789"), *[pictures, labels] * 3)
    for seed in (0, 1):
        settings = Settings.of(families="clean", cache=tmp_path, workers=1, seed=seed)
        held = training_pictures(settings, dataset)[1]
        assert np.array_equal(held.pictures[:, 0, 0, 0], held.labels)
        assert sorted(held.labels) == labels.tolist()
        parts = split_held(held, torch.device("cpu"))
        assert len(parts) > 1
        for part in parts:
            assert np.bincount(part.labels.numpy(), minlength=10).min() >= 10  # of some 30 of each
