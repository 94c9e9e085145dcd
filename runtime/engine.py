"""Classifies pictures with a bundle: measures the quality of each, chooses a variant for it, and runs that."""

import time
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

import numpy as np

from runtime.bundle.manifest import Variant
from runtime.bundle.opened import newest_bundle, open_bundle
from runtime.execution.library import Loaded
from runtime.execution.look import Look
from runtime.execution.turns import Turns
from runtime.pictures.arrays import as_grey, as_picture, cropped, resize
from runtime.policy import make_policy
from runtime.prediction import Prediction, Quality, by_name
from runtime.scores import answer

UINT8 = np.dtype(np.uint8)


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
        price = self._policy.lam if self._policy.selects else None
        staged = (self._loaded.picture, self._loaded.logits)
        self._look = Look(self.bundle, self._loaded.level, *staged, price)
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
        began = time.perf_counter()
        picture = self._picture(img)
        named = None if variant is None else self._index(variant)
        return self._turns.take(lambda: self._infer_one(picture, named, began))

    def _infer_one(self, picture: np.ndarray, named: int | None, began: float) -> Prediction:
        loaded = self._require_open()
        first, features = self._choose(picture, named)
        loaded.run_staged(self._policy.names[first])
        index, margin = self._look.rank()
        second = self._policy.second(first, margin) if named is None else None
        if second is not None:
            self._require_open().run_staged(self._policy.names[second])
            index, _ = self._look.rank()
        return self._predict(index, loaded.logits.copy(), (first, second), features, began)

    def infer_batch(self, imgs: Iterable[np.ndarray], variant: str | None = None) -> list[Prediction]:
        """Classifies pictures [H, W, 3], which may differ in size, with the same results as one `infer` each.

        A bundle built for several pictures at once runs those of one variant together.
        """
        pictures = list(imgs)
        if self.bundle.manifest.pictures == 1:
            return [self.infer(img, variant) for img in pictures]
        return self._infer_together(pictures, variant) if pictures else []

    def choose(self, pictures: np.ndarray) -> tuple[list[str], list[Quality | None]]:
        """Returns the first variant and the quality of each picture uint8 [N, H, W, 3] of the input's size.

        Raises ValueError for anything else.
        """
        shape = self.bundle.manifest.shape
        if not isinstance(pictures, np.ndarray) or pictures.dtype != UINT8 or pictures.shape[1:] != shape:
            shown = f"{pictures.dtype} {list(pictures.shape)}" if isinstance(pictures, np.ndarray) else type(pictures)
            raise ValueError(f"expected pictures uint8 [N, {', '.join(map(str, shape))}], got {shown}")
        return self._turns.take(lambda: self._choose_all(pictures))

    def _choose_all(self, pictures: np.ndarray) -> tuple[list[str], list[Quality | None]]:
        names: list[str] = []
        qualities: list[Quality | None] = []
        for picture in pictures:
            self._require_open()
            first, features = self._choose(picture, None)
            names.append(self._policy.names[first])
            qualities.append(by_name(features))
        return names, qualities

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
        return self._turns.take(lambda: self._run_one(picture, name))

    def _run_one(self, picture: np.ndarray, name: str) -> np.ndarray:
        loaded = self._require_open()
        self._look.take(picture)
        loaded.run_staged(name)
        logits: np.ndarray = loaded.logits.copy()
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

    def _picture(self, img: np.ndarray) -> np.ndarray:
        """Returns what the network looks at, uint8 [h, w, 3], or [H, W, 1] of the input's size where it takes grey."""
        height, width, channels = self.bundle.manifest.shape
        picture = cropped(as_picture(img), (height, width), self.bundle.manifest.crop)
        return resize(as_grey(picture), (height, width)) if channels == 1 else picture

    def _index(self, variant: str) -> int:
        """Returns the place of a variant in the bundle. Raises BundleError for an unknown name."""
        return self._policy.names.index(self.bundle.variant(variant).name)

    def _choose(self, picture: np.ndarray, named: int | None) -> tuple[int, list[int] | None]:
        """Takes a picture uint8 [h, w, 3]; returns the first variant for it, and its features where these were seen.

        named: the variant that was asked for, instead of a choice.
        """
        self._look.take(picture)
        if named is not None:
            return named, None
        if self._policy.fixed is not None:
            return self._policy.fixed, None
        return self._look.choose()

    def _predict(
        self, index: int, logits: np.ndarray, passes: tuple[int, int | None], features: list[int] | None, began: float
    ) -> Prediction:
        """Returns the answer of the passes, by index: the first, and the second where there was one."""
        first, second = passes
        last = self.bundle.variants[first if second is None else second]
        manifest = self.bundle.manifest
        index = answer(logits, "binary") if manifest.scores == "binary" else index
        return Prediction(
            label=manifest.labels[index],
            index=index,
            logits=logits,
            logit_scale=last.logit_scale,
            score_kind=manifest.scores,
            variant=last.name,
            first=self._policy.names[first],
            features=features,
            seconds=time.perf_counter() - began,
        )

    def _infer_together(self, imgs: list[np.ndarray], variant: str | None) -> list[Prediction]:
        """Classifies pictures, those of one variant together; the time of each is its share of all."""
        began = time.perf_counter()
        pictures = [self._picture(img) for img in imgs]
        named = None if variant is None else self._index(variant)
        return self._turns.take(lambda: self._run_by_variant(pictures, named, began))

    def _run_by_variant(self, pictures: list[np.ndarray], named: int | None, began: float) -> list[Prediction]:
        loaded = self._require_open()
        staged = np.empty((len(pictures), *self.bundle.manifest.shape), np.uint8)
        logits = np.empty((len(pictures), self.bundle.manifest.outputs), np.int32)
        choices = []
        for i, picture in enumerate(pictures):
            choices.append(self._choose(picture, named))
            staged[i] = loaded.picture
        self._run_groups({i: first for i, (first, _) in enumerate(choices)}, staged, logits)
        ranks = [self._rank(loaded, row) for row in logits]
        seconds: dict[int, int] = {}
        for i, ((first, _), (_, margin)) in enumerate(zip(choices, ranks, strict=True)):
            second = self._policy.second(first, margin) if named is None else None
            if second is not None:
                seconds[i] = second
        self._run_groups(seconds, staged, logits)
        for i in seconds:
            ranks[i] = self._rank(loaded, logits[i])
        shared = time.perf_counter() - (time.perf_counter() - began) / len(pictures)
        return [
            self._predict(ranks[i][0], logits[i], (first, seconds.get(i)), features, shared)
            for i, (first, features) in enumerate(choices)
        ]

    def _run_groups(self, variants: dict[int, int], staged: np.ndarray, logits: np.ndarray) -> None:
        """Runs pictures, by index, through their variants, and sets their logits."""
        for group in group_by_variant(variants, self.bundle.manifest.pictures):
            logits[group] = self._require_open().run_together(self._policy.names[variants[group[0]]], staged[group])

    def _rank(self, loaded: Loaded, logits: np.ndarray) -> tuple[int, int]:
        loaded.logits[:] = logits
        return self._look.rank()

    def _require_open(self) -> Loaded:
        """Returns what is loaded. Raises ValueError after `close`."""
        if self._loaded is None:
            raise ValueError("expected an open engine, this one was closed; make a new Engine")
        return self._loaded


def group_by_variant(variants: Mapping[int, Hashable], most: int) -> list[list[int]]:
    """Returns the indices of pictures of one variant, `most` at a time, by the first index of each group.

    variants: index of a picture -> its variant.
    """
    by_variant: dict[Hashable, list[int]] = {}
    for i, variant in variants.items():
        by_variant.setdefault(variant, []).append(i)
    return sorted(indices[at : at + most] for indices in by_variant.values() for at in range(0, len(indices), most))
