"""Counts on how many pictures a .tflite file's integers, and a bundle of it, give LiteRT's class:

    python -m benchmarks.litert FILE.tflite PICTURES.npy [--labels LABELS.npy] [--bundle DIR]

PICTURES.npy holds uint8 [N, H, W, C] of the network's size, LABELS.npy integers [N]. --kernels names LiteRT's:
XNNPACK's, which it takes by default and which round once, its optimized ones, which round twice, or its reference,
which gives the same integers as those, slowly. Needs ai-edge-litert.
"""

import argparse
from pathlib import Path

import numpy as np

from compile.qdq.normalization import Normalization
from compile.tflite.importer import load
from compile.tflite.peer import run_litert
from runtime.engine import Engine
from train.integers.evaluate import evaluate

KERNELS = {"reference": "BUILTIN_REF", "optimized": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "xnnpack": "BUILTIN"}


def bundle_logits(bundle: Path, pictures: np.ndarray) -> np.ndarray:
    """Returns int32 [N, classes]: what a bundle's compiled code answers to pictures uint8 [N, H, W, C]."""
    with Engine(bundle) as engine:
        return np.stack([engine.infer(picture).logits for picture in pictures])


def main() -> None:
    """Prints a line for each comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.litert", description="Agreement with LiteRT.")
    parser.add_argument("file", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=["xnnpack"])
    parser.add_argument("--mean", type=float)
    parser.add_argument("--std", type=float)
    args = parser.parse_args()
    normalization = None if args.mean is None else Normalization((args.mean,), (args.std,))
    pictures = np.load(args.pictures)
    answers = {"integers": evaluate(load(args.file, normalization), pictures)}
    if args.bundle:
        answers["bundle"] = bundle_logits(args.bundle, pictures)
    for kernels in args.kernels:
        answers[f"LiteRT {kernels}"] = run_litert(args.file, pictures, normalization, KERNELS[kernels])
    labels = None if args.labels is None else np.load(args.labels)
    ours = answers["integers"]
    for name, logits in answers.items():
        classes = int((logits.argmax(1) == ours.argmax(1)).sum())
        apart = np.abs(logits.astype(np.int64) - ours)
        accuracy = "" if labels is None else f", {np.mean(logits.argmax(1) == labels):.2%} right"
        print(
            f"{args.file.stem}: {name}: {classes} of {len(ours)} classes are those of the integers, "
            f"{(apart > 0).mean():.3%} of logits differ, by {apart.max()} steps at most{accuracy}"
        )


if __name__ == "__main__":
    main()
