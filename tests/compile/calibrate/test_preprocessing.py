"""Preprocessing is read from four kinds of JSON and two tables, keeps its meaning, and comes back from a file."""

import json
import sys
import types

import numpy as np
import pytest

from compile.calibrate.errors import CalibrationError
from compile.calibrate.preprocessing import Preprocessing, from_dict
from compile.calibrate.presets import TABLE, find_preprocessing, for_size

pytestmark = pytest.mark.slow

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXAMPLES = {
    "own": Preprocessing(MEAN, STD, 0.875, (224, 224), "bicubic"),
    "whole": Preprocessing((0.5,), (0.5,)),
    "open size": Preprocessing(MEAN, STD, 1.0),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_comes_back_from_json(name):
    assert from_dict(json.loads(json.dumps(EXAMPLES[name].to_dict()))) == EXAMPLES[name]


def test_timm():
    config = {"input_size": [3, 256, 288], "crop_pct": 0.95, "interpolation": "bicubic", "mean": MEAN, "std": STD}
    expected = Preprocessing(MEAN, STD, 0.95, (256, 288), "bicubic")
    assert from_dict(config) == expected
    assert from_dict({"architecture": "x", "pretrained_cfg": {**config, "crop_mode": "center"}}) == expected
    assert from_dict({**config, "crop_mode": "squash"}).crop is None


HUGGING_FACE = {
    "resnet": (
        {"do_resize": True, "size": {"shortest_edge": 224}, "crop_pct": 0.875, "image_mean": MEAN, "image_std": STD},
        Preprocessing(MEAN, STD, 0.875, (224, 224)),
    ),
    "vit": (
        {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        Preprocessing((0.5,) * 3, (0.5,) * 3, None, (224, 224), "bicubic"),
    ),
    "mobilenet": (
        {
            **{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
            **{"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255, "resample": 2},
        },
        Preprocessing((0.5,) * 3, (0.5,) * 3, 0.875, (224, 224)),
    ),
    "not normalized": (
        {"do_rescale": True, "do_normalize": False, "size": 96},
        Preprocessing((0.0,), (1.0,), 1.0, (96, 96)),
    ),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name):
    data, expected = HUGGING_FACE[name]
    assert from_dict(data) == expected


def test_an_offset_of_hugging_face_means_the_same_numbers():
    """EfficientNet's processor: x = (u8 / 127.5 - 1 - mean) / std."""
    data = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "image_mean": MEAN, "image_std": STD, "size": 64}
    pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    expected = (pictures / 127.5 - 1 - np.array(MEAN)) / np.array(STD)
    values = from_dict(data).normalization.floats(pictures).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(values, expected, atol=1e-5)  # float32


def test_torchvision():
    assert find_preprocessing("torchvision:resnet50") == Preprocessing(MEAN, STD, 224 / 232, (224, 224))
    assert find_preprocessing("torchvision:resnet50/IMAGENET1K_V1").crop == 0.875
    assert find_preprocessing("torchvision:efficientnet_b1/IMAGENET1K_V1").interpolation == "bicubic"
    assert find_preprocessing("torchvision:inception_v3").size == (299, 299)
    table = json.loads(TABLE.read_text())
    for model, presets in table.items():
        for weights in set(presets) - {"default"}:
            assert find_preprocessing(f"torchvision:{model}/{weights}").size[0] >= 224


def test_timm_is_asked_where_it_is_installed(monkeypatch):
    config = types.SimpleNamespace(
        to_dict=lambda: {"input_size": (3, 224, 224), "crop_pct": 0.9, "mean": MEAN, "std": STD}
    )

    def get_pretrained_cfg(name, allow_unregistered):
        if name != "resnet50":
            raise RuntimeError("no such network")
        assert not allow_unregistered
        return config

    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    models = types.ModuleType("timm.models")
    models.get_pretrained_cfg = get_pretrained_cfg
    monkeypatch.setitem(sys.modules, "timm.models", models)
    assert find_preprocessing("timm:resnet50").crop == 0.9
    with pytest.raises(CalibrationError, match="expected a network of timm, got 'resnet5'"):
        find_preprocessing("timm:resnet5")


def test_timm_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(
        CalibrationError, match=r"--preprocess timm:resnet50: expected timm .* or give the config\.json"
    ):
        find_preprocessing("timm:resnet50")


REFUSED = {
    '{"std": [1, 1, 1]}': "expected one of crop, input_size, image_mean",
    '{"crop": 0.5, "mean": [0, 0], "std": [1, 1]}': "expected a mean and std for each of 3 channels",
    '{"crop": 1.5, "mean": [0], "std": [1]}': r"in 0\.\.1, got 1\.5",
    '{"crop": "all", "mean": [0], "std": [1]}': "expected fields as 'crop' has them",
    '{"crop": null, "mean": [127.5], "std": [127.5]}': "pictures in 0..255",
    '{"crop": null, "mean": [0], "std": [1], "interpolation": "best"}': "expected one of nearest",
    '{"input_size": [3, 224], "mean": [0], "std": [1]}': "expected fields as 'input_size' has them",
    '{"image_mean": [0, 0, 0]}': "expected fields as 'image_mean' has them",
    "[1]": "expected a JSON object, got list",
    "{": "expected a JSON file, cannot read it",
}


@pytest.mark.parametrize("text", REFUSED)
def test_other_json_is_refused(tmp_path, text):
    path = tmp_path / "preprocess.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=REFUSED[text]) as refused:
        find_preprocessing(str(path))
    assert str(refused.value).startswith(f"--preprocess {path}: ")


@pytest.mark.parametrize(
    "name, message",
    [
        ("torchvision:resnet5", "expected one of torchvision's classifiers .*resnet50"),
        ("torchvision:resnet50/V9", "expected weights of resnet50, one of IMAGENET1K_V1, IMAGENET1K_V2"),
        ("absent.json", "there is no such file"),
        ("resnet50", "expected torchvision:NAME, timm:NAME or a JSON file"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(CalibrationError, match=message):
        find_preprocessing(name)


def test_another_size_is_remarked():
    preprocessing, remark = for_size(EXAMPLES["own"], (96, 96))
    assert preprocessing.size == (96, 96) and "224x224 pixels, the network takes 96x96" in remark
    assert for_size(EXAMPLES["open size"], (96, 96))[1] == ""
