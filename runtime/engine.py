"""Classifies pictures with a bundle: measures the quality of each, picks the variant for it, runs that."""

import math
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np

from runtime.bundle.manifest import Variant
from runtime.bundle.opened import Bundle, newest_bundle, open_bundle
from runtime.choice import quality
from runtime.choice.escalation import again, margin
from runtime.choice.selector import Selector, entry_for, rounded_up, selector_among
from runtime.execution.library import Loaded
from runtime.fields import REBUILD, BundleError
from runtime.pictures.arrays import as_picture, resize


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the bundle makes of one picture.

    label, index: the class with the largest logit. scores float32 [classes]: softmax. logits int32 [classes]: exact,
    the same on every device. variant: the one whose answer this is; first: the one that ran before it where that was
    unsure, else the same. quality: feature name -> integer, None where no selector looked. seconds: all that was done
    for this picture, with both passes (in a batch: its share).
    """

    label: str
    index: int
    scores: np.ndarray
    logits: np.ndarray
    variant: str
    first: str
    quality: dict[str, int] | None
    seconds: float

    @property
    def escalated(self) -> bool:
        """Whether a second variant ran."""
        return self.variant != self.first


class Engine:
    """A bundle, loaded and ready.

    bundle: its folder; None opens the newest under ./bundles and prints which.
    budget: mean cost a picture may take, relative to 8 bits everywhere. None: the bundle's own, which its run was
        trained and reported with (below the least that can be had it means that), or any where it has none; math.inf:
        any. With a selector, the most accurate entry of the bundle's table of budgets within it decides (the cheapest
        of equals); without one, the most accurate variant within it runs for every picture, or the costliest where
        nobody measured accuracy.
    variant: the name of the one to run for every picture, whatever its quality; not together with a budget.
    level: the name of the one whose code runs; None: the best of the bundle's that this machine can run.
    escalate: whether a picture of which its variant is unsure may run through a dearer one as well, where the bundle
        knows when that pays; a budget then is the mean cost of all passes. False: one pass a picture, always.
    threads: how many work on a picture together. More than one pays where processors are idle; where they are busy, the
        calling thread soon does the work alone. After a fork the child's engine has the calling thread only.

    Raises BundleError when the bundle cannot be used here, ValueError for a budget below the smallest. One engine may
    be used from several threads: a lock lets one picture through at a time. For more at once, make an engine a thread.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        budget: float | None = None,
        variant: str | None = None,
        level: str | None = None,
        threads: int = 1,
        escalate: bool = True,
    ):
        if bundle is None:
            bundle = newest_bundle()
            print(f"bundle: {bundle}")
        if budget is not None and variant is not None:
            raise ValueError(f"expected a budget or a variant, got both ({budget}, {variant!r}); leave one out")
        if budget is not None and (not isinstance(budget, Real) or isinstance(budget, bool) or math.isnan(budget)):
            raise ValueError(f"expected a budget as a number, math.inf for any cost, got {budget!r}")
        self.bundle = open_bundle(bundle)
        self._policy = _policy(self.bundle, budget, variant, escalate)
        self._loaded = Loaded(self.bundle, self.bundle.variants, level, threads)
        self.level, self.threads = self._loaded.level.name, threads
        self._locks: dict[int, threading.Lock] = {}

    @property
    def _lock(self) -> threading.Lock:
        """This process's: one made by fork may have its parent's locked for ever, by a thread that it does not have."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    @property
    def variants(self) -> dict[str, Variant]:
        """All in the bundle, by name, in its order: bits of each layer, cost, accuracy and more."""
        return {v.name: v for v in self.bundle.variants}

    @property
    def budget(self) -> float | None:
        """Mean cost a picture may take, as given or the bundle's own; math.inf: any; None where a variant was named."""
        return self._policy.budget

    @property
    def selects(self) -> bool:
        """Whether a selector looks at each picture; otherwise one variant runs for all."""
        return self._policy.fixed is None

    @property
    def escalates(self) -> dict[str, str]:
        """Variant -> the one that runs after it where it is unsure; empty where every picture runs once."""
        policy, names = self._policy, [v.name for v in self.bundle.variants]
        return {names[v]: names[policy.up[v]] for v, below in enumerate(policy.margins) if below}

    def infer(self, img: np.ndarray, variant: str | None = None) -> Prediction:
        """Classifies one picture of any size: uint8 [H, W, 3] RGB, or what `runtime.pictures.arrays.as_picture`
        converts.

        variant: the one to run this time, instead of choosing.
        """
        return self._infer([img], variant)[0]

    def infer_batch(self, imgs: Iterable[np.ndarray], variant: str | None = None) -> list[Prediction]:
        """Classifies pictures, which may differ in size; the same results as one `infer` each.

        A bundle built for several pictures at once runs those of one variant together.
        """
        imgs = list(imgs)
        return self._infer(imgs, variant) if imgs else []

    def choose(self, pictures: np.ndarray) -> tuple[list[str], list[dict[str, int] | None]]:
        """First variant and quality of each picture uint8 [N, H, W, 3], of the input's size."""
        if self._policy.fixed is not None:
            return [self._policy.fixed.name] * len(pictures), [None] * len(pictures)
        features = quality.features(pictures)
        chosen = self._policy.selector.choose(features, self._policy.lam)
        names = [self.bundle.variants[i].name for i in chosen]
        return names, [dict(zip(quality.NAMES, row, strict=True)) for row in features.tolist()]

    def logits(self, picture: np.ndarray, variant: str) -> np.ndarray:
        """int32 [classes] of a picture uint8 [H, W, 3] of the input's size, by one of `variants`."""
        shape, name = self.bundle.manifest.shape, self.bundle.variant(variant).name
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape != shape:
            came = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else repr(type(picture))
            raise ValueError(f"expected a picture uint8 {list(shape)}, got {came}; `infer` resizes")
        return self._run(name, picture[None])[0]

    def launch(self, variant: str, pictures: int, logits: int, stream: int) -> None:
        """Launches one variant's kernels on a CUDA stream and returns; no copy, no allocation on the GPU, no waiting.

        pictures: address on GPU 0 of uint8 [n, H, W, 3], n the pictures that the bundle was built for, of the input's
        size. logits: address of int32 [n, classes], written. Both are multiples of 64 and stay the caller's, as memory
        of cudaMalloc and of torch are. stream: a cudaStream_t as an integer, 0 the default one.
        May be captured in a CUDA graph, after one call that was not (it loads the kernels); keep the engine open as
        long as the graph. All launches of an engine share one workspace: two must not be under way at a time, nor one
        beside `infer`, so put them on one stream, or make an engine for each. Raises ValueError for a bundle that is
        not for CUDA and for addresses that cannot be.
        """
        name = self.bundle.variant(variant).name
        with self._lock:
            self._require_open().launch(name, pictures, logits, stream)

    def close(self) -> None:
        """Ends its threads, frees libraries and memory; a second call does nothing."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
            self._loaded = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _infer(self, imgs: list[np.ndarray], variant: str | None) -> list[Prediction]:
        size = self.bundle.manifest.shape[:2]
        began = time.perf_counter()
        pictures = np.stack([resize(as_picture(img), size) for img in imgs])
        if variant is None:
            names, qualities = self.choose(pictures)
        else:
            names, qualities = [self.bundle.variant(variant).name] * len(imgs), [None] * len(imgs)
        seconds = np.full(len(imgs), (time.perf_counter() - began) / len(imgs))
        logits, last = np.empty((len(imgs), len(self.bundle.manifest.labels)), np.int32), list(names)
        self._run_all(dict(enumerate(names)), pictures, logits, seconds)
        if variant is None and self.escalates:
            unsure = self._unsure(names, logits)
            self._run_all(unsure, pictures, logits, seconds)
            for i, name in unsure.items():
                last[i] = name
        return [self._prediction(*of) for of in zip(logits, last, names, qualities, seconds.tolist(), strict=True)]

    def _run_all(self, names: dict[int, str], pictures: np.ndarray, logits: np.ndarray, seconds: np.ndarray) -> None:
        """Runs pictures, by index, through the variants named; sets their logits and adds to their seconds."""
        for together in _together(names, self.bundle.manifest.pictures):
            began = time.perf_counter()
            logits[together] = self._run(names[together[0]], pictures[together])
            seconds[together] += (time.perf_counter() - began) / len(together)

    def _unsure(self, names: list[str], logits: np.ndarray) -> dict[int, str]:
        """Index of a picture -> the variant to run after the one that ran, for those that need it."""
        policy, known = self._policy, [v.name for v in self.bundle.variants]
        ran = np.array([known.index(name) for name in names])
        last = again(ran, margin(logits), policy.up, policy.margins)
        return {int(i): known[last[i]] for i in np.flatnonzero(last != ran)}

    def _prediction(
        self, logits: np.ndarray, name: str, first: str, features: dict[str, int] | None, before: float
    ) -> Prediction:
        began = time.perf_counter()
        index = int(logits.argmax())
        scores = softmax(logits, self.bundle.variant(name).logit_scale)
        return Prediction(
            self.bundle.manifest.labels[index],
            index,
            scores,
            logits,
            name,
            first,
            features,
            before + time.perf_counter() - began,
        )

    def _run(self, variant: str, pictures: np.ndarray) -> np.ndarray:
        """int32 [n, classes] of pictures uint8 [n, H, W, 3] that run together."""
        with self._lock:
            return self._require_open().run_together(variant, pictures)

    def _require_open(self) -> Loaded:
        if self._loaded is None:
            raise ValueError("expected an open engine, this one was closed; make a new Engine")
        return self._loaded


def _together(names: dict[int, str], most: int) -> list[list[int]]:
    """Indices of pictures of one variant, `most` at a time, in the order in which each group's first came."""
    by_name: dict[str, list[int]] = {}
    for i, name in names.items():
        by_name.setdefault(name, []).append(i)
    groups = [found[at : at + most] for found in by_name.values() for at in range(0, len(found), most)]
    return sorted(groups)


def softmax(logits: np.ndarray, scale: float) -> np.ndarray:
    """float32 [classes] of integer logits; sums to 1."""
    powers = np.exp((logits - np.float64(logits.max())) * scale)
    return (powers / powers.sum()).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Policy:
    """Selector and lambda, or one variant for every picture; up, margins: what runs after which, below which margin."""

    budget: float | None = None
    selector: Selector | None = None
    lam: float = 0.0
    fixed: Variant | None = None
    up: tuple[int, ...] = ()
    margins: tuple[int, ...] = ()


def _policy(bundle: Bundle, budget: float | None, name: str | None, escalate: bool) -> _Policy:
    manifest = bundle.manifest
    if name is not None:
        return _Policy(fixed=bundle.variant(name))
    if manifest.selector is None or len(bundle.variants) == 1:
        budget = _in_force(budget, manifest.budget, min(v.cost for v in bundle.variants))
        return _Policy(budget, fixed=_best_variant(bundle.variants, budget))
    escalation = manifest.escalation if escalate else None
    table = [
        {"budget": b.budget, "accuracy": b.accuracy, "entry": b}
        for b in (manifest.budgets if escalation is None else escalation.budgets)
    ]
    budget = _in_force(budget, manifest.budget, min((row["budget"] for row in table), default=0))
    if budget != math.inf and not table:
        raise BundleError(
            f"{bundle.folder}: expected a table of budgets to serve a budget of {budget}, it has none; "
            f"leave the budget out, or {REBUILD}"
        )
    entry = entry_for(table, budget)["entry"] if table else None
    lam = entry.lam if entry else 0.0
    try:
        selector = selector_among(len(bundle.variants), manifest.selector, lam)
    except ValueError as error:
        raise BundleError(f"{bundle.folder}: {error}; {REBUILD}") from error
    passes = ((), ()) if escalation is None else (escalation.up, entry.margins)
    return _Policy(budget, selector, lam, None, *passes)


def _in_force(given: float | None, own: float | None, least: float) -> float:
    """The budget given, or the bundle's own; one below `least` then means that, as where the run was reported."""
    if given is not None:
        return given
    return math.inf if own is None else max(own, least)


def _best_variant(variants: tuple[Variant, ...], budget: float) -> Variant:
    measured = all(v.accuracy for v in variants)
    within = [v for v in variants if v.cost <= budget * (1 + 1e-9)]
    if not within:
        least = rounded_up(min(v.cost for v in variants))
        raise ValueError(f"budget {budget!r}: expected at least {least}, the cost of the cheapest variant")
    return max(within, key=lambda v: (v.mean_accuracy, -v.cost) if measured else (v.cost,))
