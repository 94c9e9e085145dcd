"""Run folders as training leaves them, of any integer networks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from targets.reference.graph import Graph
from train.integers.export import export_run


def write_run(folder: Path, graphs: Mapping[str, Graph], golden: np.ndarray) -> Path:
    """Writes a run of ten classes without a selector, and returns its folder; golden: pictures [N, H, W, C]."""
    run = {
        "format": 1,
        "name": folder.name,
        "arch": "resnet",
        "dataset": "none",
        "method": "fixed",
        "labels": [f"c{i}" for i in range(10)],
        "selector": None,
        "variants": [{"name": name, "cost": 1.0, "accuracy": {"clean": 0.5}} for name in graphs],
    }
    export_run(folder, graphs, run, golden)
    return folder
