"""From a float ONNX file to a quantized one beside the bundle, which is made once for the same file and pictures."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from compile.calibrate.agreement import agreement_of, float_logits, quantized_logits
from compile.calibrate.calibrate import calibrate
from compile.calibrate.network import FloatNetwork
from compile.calibrate.pictures import PictureSets, read_pictures
from compile.calibrate.presets import for_size
from compile.calibrate.report import CalibrationReport, report_from_dict
from compile.calibrate.settings import CalibrationSettings
from compile.calibrate.simplify import read_float
from compile.qdq.metadata import CALIBRATION, ORIGIN, PREPROCESSING, properties_of
from runtime.version import VERSION

GOLDEN = 8  # pictures that travel with the bundle


@dataclass(frozen=True, eq=False)
class CalibratedFile:
    """A quantized file, what came of its calibration, and pictures uint8 [G, H, W, 3] to check compiled code with."""

    path: Path
    report: CalibrationReport
    pictures: np.ndarray


def calibrate_file(
    source: Path, settings: CalibrationSettings, folder: Path, tell: Callable[[int, int], None]
) -> CalibratedFile:
    """Returns the quantized file of a float one, made in `folder` unless it is there already.

    It appears when it is complete, with its report as JSON beside it. tell: is called with the layers that are done,
    and their number. Raises CalibrationError for what cannot be calibrated, PictureError for a damaged picture.
    """
    settings.require_folder()
    network = read_float(source, settings.size)
    _, _, height, width = network.shapes[network.picture]
    pictures = read_pictures(settings.pictures, (height, width), settings.preprocessing.crop)
    path = folder / f"{source.stem}{settings.suffix}.onnx"
    origin = _origin(source, settings, pictures)
    report = _report_of(path, origin)
    if report is None:
        folder.mkdir(parents=True, exist_ok=True)
        report = _make(source, path, network, pictures, settings, origin, tell)
    return CalibratedFile(path, report, pictures.held_out[:GOLDEN])


def _origin(source: Path, settings: CalibrationSettings, pictures: PictureSets) -> str:
    """The sha256 of all that decides what the quantized file is."""
    digest = hashlib.sha256(source.read_bytes())
    digest.update(pictures.calibrating.tobytes())
    digest.update(pictures.held_out.tobytes())
    facts = [VERSION, settings.bits, settings.rounding, settings.preprocessing.to_dict()]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def _report_of(path: Path, origin: str) -> CalibrationReport | None:
    """The report of a file that was made of the same before; None where there is none."""
    if not path.is_file():
        return None
    try:
        properties = properties_of(path)
        return (
            report_from_dict(json.loads(properties[CALIBRATION])) if properties[ORIGIN] == json.dumps(origin) else None
        )
    except (KeyError, TypeError, ValueError, OSError, DecodeError):
        return None


def _make(
    source: Path,
    path: Path,
    network: FloatNetwork,
    pictures: PictureSets,
    settings: CalibrationSettings,
    origin: str,
    tell: Callable[[int, int], None],
) -> CalibrationReport:
    """Calibrates, writes a file that is not complete, compares it with the float file, and completes it."""
    height, width = pictures.calibrating.shape[1:3]
    preprocessing, remark = for_size(settings.preprocessing, (height, width))
    normalization = preprocessing.normalization
    calibrated = calibrate(network, pictures.calibrating, normalization, settings, tell)
    model = calibrated.to_onnx({PREPROCESSING: preprocessing.to_dict(), ORIGIN: origin})
    partial = path.with_name(f".{path.name}.partial")
    onnx.save(model, partial)
    logits = float_logits(source, network, pictures.held_out, normalization)
    agreement = agreement_of(logits, quantized_logits(partial, pictures.held_out), pictures.are_apart)
    remarks = [remark] if remark else []
    if preprocessing.interpolation != "bilinear":
        remarks.append(
            f"the network was trained on pictures resized by {preprocessing.interpolation} interpolation; here and on "
            "the device it is bilinear"
        )
    report = CalibrationReport(
        network=source.stem,
        bits=settings.widths.name,
        rounding=settings.rounding,
        preprocessing=preprocessing,
        calibrating=len(pictures.calibrating),
        agreement=agreement,
        layers=tuple(sorted(calibrated.quantization.noise, key=lambda noise: noise.alone)),
        remarks=tuple(remarks),
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = CALIBRATION, json.dumps(report.to_dict())
    onnx.save(model, partial)
    path.with_suffix(".json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    os.replace(partial, path)
    return report
