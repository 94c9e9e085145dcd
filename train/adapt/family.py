"""Makes the variants of an adapted family: one for clean pictures, one for all, and private ones for each kind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from compile.calibrate.network import LAYERS, FloatNetwork
from compile.calibrate.settings import Widths
from compile.qdq.importer import from_model
from compile.qdq.normalization import Normalization
from runtime.choice.quality import features
from targets.reference.graph import Graph
from train.adapt.prepared import Prepared
from train.adapt.settings import AdaptSettings
from train.adapt.twins import CLEAN_WEIGHT, Degraded
from train.adapt.walk import Plan, fit
from train.kinds.kinds import Kinds

LEAST_TWINS = 12  # that a kind needs for variants of its own
CLEAN_SHARE = 0.05  # of a kind's twins, from which on clean pictures would pay for weights that all kinds share
ALL, KIND = "-all", "-q"  # what stands behind the widths in the names of variants


@dataclass(frozen=True, eq=False)
class AdaptedVariant:
    """One integer network; kinds: those it was fitted to, empty for all; base: the variant that it was made from."""

    name: str
    model: onnx.ModelProto
    graph: Graph
    kinds: tuple[int, ...] = ()
    base: str = ""

    @classmethod
    def of_model(cls, model: onnx.ModelProto, kinds: tuple[int, ...] = (), base: str = "") -> "AdaptedVariant":
        """Reads a QDQ file, whose name the variant has."""
        return cls(model.graph.name, model, from_model(model), kinds, base)


@dataclass(frozen=True, eq=False)
class Family:
    """What the variants of all widths are made of; `make` makes those of one."""

    network: FloatNetwork
    normalization: Normalization
    clean: np.ndarray
    degraded: Degraded
    kinds: Kinds
    settings: AdaptSettings

    @property
    def steps(self) -> int:
        """How many layers are fitted for variants of one width."""
        layers = sum(node.op_type in LAYERS for node in self.network.nodes)
        return layers * (1 + (self.settings.weights != "kept") + len(self._private))

    @property
    def _private(self) -> list[int]:
        counts = np.bincount(self._kind, minlength=len(self.kinds))
        return [k for k, count in enumerate(counts) if count >= LEAST_TWINS]

    @property
    def _kind(self) -> np.ndarray:
        """The kind that each twin's features tell, int64 [F * N]."""
        return self.kinds.classify(features(self.degraded.flat))

    def make(self, widths: Widths, advance: Callable[[int], None]) -> list[AdaptedVariant]:
        """Returns the variants of some widths; advance: is called with how many layers were fitted."""
        twins = self.degraded.twins(1.0)
        everything = np.concatenate([self.clean, twins.pictures])
        prepared = Prepared.of(self.network, self.normalization, widths, everything)
        plain = Plan(twins.of(self.degraded.family == 0), gains=False)
        (one,) = fit(prepared, self.clean, [plain], advance)
        variants = [AdaptedVariant.of_model(prepared.model(one.layers, widths.name))]
        base, weights = widths.name, {}
        if self.settings.weights != "kept":
            base = f"{widths.name}{ALL}"
            plan = Plan(self.degraded.twins(CLEAN_WEIGHT["all"]), weights=True)
            (common,) = fit(prepared, self.clean, [plan], advance)
            weights = common.weights
            variants.append(AdaptedVariant.of_model(prepared.model(common.layers, base)))
        return [*variants, *self._private_variants(prepared, base, weights, advance)]

    def _private_variants(
        self, prepared: Prepared, base: str, weights: dict[str, np.ndarray], advance: Callable[[int], None]
    ) -> Iterator[AdaptedVariant]:
        """One variant for each kind: the same codes of weights under tables of its own, or weights of its own."""
        kind = self._kind
        plans = [self._plan(kind == k, weights) for k in self._private]
        width = base.removesuffix(ALL)
        for k, fitted in zip(self._private, fit(prepared, self.clean, plans, advance), strict=True):
            yield AdaptedVariant.of_model(prepared.model(fitted.layers, f"{width}{KIND}{k}"), (k,), base)

    def _plan(self, rows: np.ndarray, weights: dict[str, np.ndarray]) -> Plan:
        """What one kind's variant may change; rows: bool [F * N], the twins of that kind."""
        clean = float((self.degraded.severities.reshape(-1)[rows] == 0).mean())
        own = self.settings.weights == "private" or (self.settings.weights == "fitted" and clean >= CLEAN_SHARE)
        weight = CLEAN_WEIGHT["private" if own else "tables"]
        return Plan(self.degraded.twins(weight).of(rows), weights=own, base=weights)
