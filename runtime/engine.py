"""Classifies pictures with a bundle: measures the quality of each, chooses a variant for it, and runs that."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.bundle.manifest import Variant
from runtime.bundle.opened import newest_bundle, open_bundle
from runtime.execution.library import Loaded
from runtime.execution.turns import Turns
from runtime.pictures.arrays import as_picture, resize
from runtime.policy import Choices, Quality, make_policy


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one picture.

    label, index: the class with the largest logit. scores: float32 [classes], their softmax. logits: int32 [classes],
    exact, the same on every device. variant: the one whose answer this is; first: the one that ran before it where that
    was unsure, else the same. quality: feature name -> integer, None where no selector looked. seconds: all that was
    done for this picture, both passes included (in a batch: its share).
    """

    label: str
    index: int
    scores: np.ndarray
    logits: np.ndarray
    variant: str
    first: str
    quality: Quality | None
    seconds: float

    @property
    def escalated(self) -> bool:
        """Whether a second variant ran."""
        return self.variant != self.first


class Engine:
    """A bundle that is loaded and ready to classify pictures.

    bundle: its folder; None opens the newest under ./bundles and prints which.
    budget: mean cost a picture may take, relative to 8 bits everywhere; math.inf: any. None: the bundle's own, which
        its run was trained and reported with (the least that can be had where it is below that), or any where it has
        none. With a selector, the most accurate row of the bundle's table of budgets within it decides (the cheapest
        of equals); without one, the most accurate variant within it runs for every picture, or the costliest where
        nobody measured accuracy.
    variant: the name of the one to run for every picture, whatever its quality; not together with a budget.
    level: the name of the one whose code runs; None: the best of the bundle's that this machine can run.
    threads: how many work on a picture together. More than one pays where processors are idle; where they are busy, the
        calling thread soon does the work alone. After a fork the child's engine has the calling thread only.
    escalate: whether a picture of which its variant is unsure may run through a costlier one as well, where the bundle
        knows when that pays; a budget then is the mean cost of all passes. False: one pass a picture, always.

    Raises BundleError when the bundle cannot be used here, ValueError for a budget below the smallest. One engine may
    be used from several threads: a lock lets one picture through at a time. For more at once, make an engine a thread.
    A signal handler may close an engine that is at work, but not use it: RuntimeError.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        budget: float | None = None,
        variant: str | None = None,
        level: str | None = None,
        threads: int = 1,
        escalate: bool = True,
    ) -> None:
        if bundle is None:
            bundle = newest_bundle()
            print(f"bundle: {bundle}")
        self.bundle = open_bundle(bundle)
        self._policy = make_policy(self.bundle, budget, variant, escalate)
        self._loaded: Loaded | None = Loaded(self.bundle, self.bundle.variants, level, threads)
        self.bundle.contents.forget()
        self.level = self._loaded.level.name
        self.threads = threads
        self._turns = Turns()

    @property
    def variants(self) -> dict[str, Variant]:
        """All variants in the bundle by name, in its order, with the bits of each layer, cost, accuracy and more."""
        return {v.name: v for v in self.bundle.variants}

    @property
    def budget(self) -> float | None:
        """Mean cost a picture may take, as given or the bundle's own; math.inf: any; None where a variant was named."""
        return self._policy.budget

    @property
    def selects(self) -> bool:
        """Whether a selector looks at each picture; otherwise one variant runs for all."""
        return self._policy.selects

    @property
    def escalates(self) -> dict[str, str]:
        """Variant -> the one that runs after it where it is unsure; empty where every picture runs once."""
        return self._policy.escalates

    def infer(self, img: np.ndarray, variant: str | None = None) -> Prediction:
        """Classifies one picture of any size, uint8 [H, W, 3] RGB or anything that pictures.arrays.as_picture takes.

        variant: the one to run this time, instead of choosing. Raises TypeError or ValueError for what is no picture,
        BundleError for an unknown variant.
        """
        return self._infer([img], variant)[0]

    def infer_batch(self, imgs: Iterable[np.ndarray], variant: str | None = None) -> list[Prediction]:
        """Classifies pictures [H, W, 3], which may differ in size, with the same results as one `infer` each.

        A bundle built for several pictures at once runs those of one variant together.
        """
        pictures = list(imgs)
        return self._infer(pictures, variant) if pictures else []

    def choose(self, pictures: np.ndarray) -> tuple[list[str], list[Quality | None]]:
        """Returns the first variant and the quality of each picture uint8 [N, H, W, 3] of the input's size."""
        choices = self._policy.choose(pictures)
        return choices.variants, choices.qualities

    def logits(self, picture: np.ndarray, variant: str) -> np.ndarray:
        """Returns int32 [classes] of a picture uint8 [H, W, 3] of the input's size, by one of `variants`.

        Raises ValueError for any other picture, BundleError for an unknown variant.
        """
        shape = self.bundle.manifest.shape
        name = self.bundle.variant(variant).name
        if not isinstance(picture, np.ndarray):
            raise ValueError(f"expected a picture uint8 {list(shape)}, got {type(picture)!r}; `infer` resizes")
        if picture.dtype != np.uint8 or picture.shape != shape:
            shown = f"{picture.dtype} {list(picture.shape)}"
            raise ValueError(f"expected a picture uint8 {list(shape)}, got {shown}; `infer` resizes")
        logits: np.ndarray = self._run(name, picture[None])[0]
        return logits

    def launch(self, variant: str, pictures: int, logits: int, stream: int) -> None:
        """Launches one variant's kernels on a CUDA stream and returns; no copy, no allocation on the GPU, no waiting.

        pictures: address on GPU 0 of uint8 [n, H, W, 3] of the input's size, n the pictures that the bundle was built
        for. logits: address of int32 [n, classes], written. Both are multiples of 64 and stay the caller's, as memory
        of cudaMalloc and of torch are. stream: a cudaStream_t as an integer, 0 for the default one.
        May be captured in a CUDA graph, after one call that was not (it loads the kernels); keep the engine open as
        long as the graph. All launches of an engine share one workspace: two must not be under way at a time, nor one
        beside `infer`, so put them on one stream, or make an engine for each. Raises ValueError for a bundle that is
        not for CUDA and for addresses that cannot be.
        """
        name = self.bundle.variant(variant).name
        self._turns.take(lambda: self._require_open().launch(name, pictures, logits, stream))

    def close(self) -> None:
        """Ends its threads, frees libraries and memory; a second call does nothing.

        A signal handler may call it: an `infer` that it interrupted ends with its answer, or with the error of a closed
        engine where another variant was to run.
        """
        self._turns.interrupt(self._unload)

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _infer(self, imgs: list[np.ndarray], variant: str | None) -> list[Prediction]:
        began = time.perf_counter()
        pictures = np.stack([resize(as_picture(img), self.bundle.manifest.shape[:2]) for img in imgs])
        if variant is None:
            choices = self._policy.choose(pictures)
        else:
            choices = Choices([self.bundle.variant(variant).name] * len(imgs), [None] * len(imgs))
        seconds = np.full(len(imgs), (time.perf_counter() - began) / len(imgs))
        logits = np.empty((len(imgs), len(self.bundle.manifest.labels)), np.int32)
        last = dict(enumerate(choices.variants))
        self._run_all(last, pictures, logits, seconds)
        if variant is None:
            unsure = self._policy.second_passes(choices.variants, logits)
            self._run_all(unsure, pictures, logits, seconds)
            last.update(unsure)
        return [
            self._predict(logits[i], last[i], choices.variants[i], choices.qualities[i], float(seconds[i]))
            for i in range(len(imgs))
        ]

    def _run_all(self, names: dict[int, str], pictures: np.ndarray, logits: np.ndarray, seconds: np.ndarray) -> None:
        """Runs pictures, by index, through the variants named; sets their logits and adds to their seconds."""
        for group in group_by_variant(names, self.bundle.manifest.pictures):
            began = time.perf_counter()
            logits[group] = self._run(names[group[0]], pictures[group])
            seconds[group] += (time.perf_counter() - began) / len(group)

    def _predict(
        self, logits: np.ndarray, variant: str, first: str, features: Quality | None, seconds: float
    ) -> Prediction:
        began = time.perf_counter()
        index = int(logits.argmax())
        return Prediction(
            label=self.bundle.manifest.labels[index],
            index=index,
            scores=softmax(logits, self.bundle.variant(variant).logit_scale),
            logits=logits,
            variant=variant,
            first=first,
            quality=features,
            seconds=seconds + time.perf_counter() - began,
        )

    def _run(self, variant: str, pictures: np.ndarray) -> np.ndarray:
        """Returns int32 [n, classes] of pictures uint8 [n, H, W, 3] that run together."""
        return self._turns.take(lambda: self._require_open().run_together(variant, pictures))

    def _require_open(self) -> Loaded:
        """Returns what is loaded. Raises ValueError after `close`."""
        if self._loaded is None:
            raise ValueError("expected an open engine, this one was closed; make a new Engine")
        return self._loaded


def group_by_variant(names: dict[int, str], most: int) -> list[list[int]]:
    """Returns the indices of pictures of one variant, `most` at a time, by the first index of each group.

    names: index of a picture -> its variant.
    """
    by_name: dict[str, list[int]] = {}
    for i, name in names.items():
        by_name.setdefault(name, []).append(i)
    return sorted(indices[at : at + most] for indices in by_name.values() for at in range(0, len(indices), most))


def softmax(logits: np.ndarray, scale: float) -> np.ndarray:
    """Returns float32 [classes], which sums to 1, of integer logits [classes] whose unit is worth `scale`."""
    powers = np.exp((logits - np.float64(logits.max())) * scale)
    scores: np.ndarray = powers / powers.sum()
    return scores.astype(np.float32)
