"""What choosing a variant costs: a bundle's steps, beside those of an older bitgrade with a bundle of its own.

    python -m benchmarks.look bundles/a
    python -m benchmarks.look bundles/a --before CHECKOUT --before-bundle CHECKOUT/bundles/a

Both are loaded into one process and take turns, picture by picture, so that a busy machine slows both alike. "kernels"
is one call of the compiled code of the variant with the least time; "choosing" one call of the look's.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from runtime.files import write_json
from runtime.machine import cpu
from runtime.terminal import OneLineParser

WARM_UP = 50  # calls before any is timed
BURST = 8  # calls of a step in a row, as of a stream of pictures: its code and data stay in the caches


@dataclass(frozen=True)
class StepTime:
    """The time of one step in microseconds: the least, and the median, of all calls. side: "before" or "after"."""

    side: str
    step: str
    least_us: float
    median_us: float


@dataclass(frozen=True, eq=False)
class Step:
    """What is timed: one call for a picture uint8 [H, W, 3]."""

    side: str
    name: str
    run: Callable[[np.ndarray], object]


@contextmanager
def _packages_of(checkout: Path) -> Iterator[None]:
    """Lets imports find `runtime` in another checkout; the modules that are loaded here come back afterwards."""
    own = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "runtime"}
    for name in own:
        del sys.modules[name]
    sys.path.insert(0, str(checkout))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
        for name in [name for name in sys.modules if name.partition(".")[0] == "runtime"]:
            del sys.modules[name]
        sys.modules.update(own)


def open_engine(bundle: Path, checkout: Path | None = None) -> Any:
    """Returns an engine on one thread, of this checkout's runtime or of another's."""
    if checkout is None:
        return _engine_class(importlib.import_module("runtime"))(bundle)
    with _packages_of(checkout.absolute()):
        return _engine_class(importlib.import_module("runtime"))(bundle)


def _engine_class(package: ModuleType) -> Any:
    return package.Engine


def make_steps(side: str, engine: Any) -> list[Step]:
    """Returns the steps of an engine that both sides have."""
    fixed = next(iter(engine.variants))
    return [
        Step(side, "select", lambda picture: engine.choose(picture[None])),
        Step(side, "infer, a variant named", lambda picture: engine.infer(picture, fixed)),
        Step(side, "infer", engine.infer),
    ]


def make_own_steps(engine: Any) -> list[Step]:
    """Returns the calls of compiled code that the steps of this checkout's engine are made of."""
    loaded, look = engine._loaded, engine._look  # what the engine is made of has no public name
    steps = [Step("after", f"kernels {name}", _call(loaded.run_staged, name)) for name in engine.variants]
    return [
        *steps,
        Step("after", "choosing", lambda _: look._choose()),
        Step("after", "ranking", lambda _: look.rank()),
    ]


def _call(run: Callable[[str], object], name: str) -> Callable[[np.ndarray], object]:
    return lambda _: run(name)


def measure(steps: Sequence[Step], pictures: np.ndarray, calls: int) -> list[StepTime]:
    """Returns the times of steps that take turns over pictures uint8 [N, H, W, 3], in bursts."""
    times: dict[Step, list[float]] = {step: [] for step in steps}
    for i in range(WARM_UP + calls):
        for step in steps:
            for k in range(BURST):
                picture = pictures[(i * BURST + k) % len(pictures)]
                began = time.perf_counter()
                step.run(picture)
                if i >= WARM_UP:
                    times[step].append((time.perf_counter() - began) * 1e6)
    return [StepTime(s.side, s.name, float(np.min(t)), float(np.median(t))) for s, t in times.items()]


def print_times(times: Sequence[StepTime]) -> None:
    """Prints a row for each step, with the ratio of after to before where there are both."""
    print(f"{cpu.model()}; microseconds, least and median")
    before = {t.step: t for t in times if t.side == "before"}
    for t in times:
        ratio = ""
        if t.side == "after" and t.step in before:
            was = before[t.step]
            ratio = f"   {t.least_us / was.least_us:.4f} {t.median_us / was.median_us:.4f} of before"
        if not t.step.startswith("kernels"):
            print(f"{t.side:7} {t.step:24} {t.least_us:9.2f} {t.median_us:9.2f}{ratio}")
    kernels = [t for t in times if t.step.startswith("kernels")]
    if kernels:
        least = min(kernels, key=lambda t: t.least_us)
        print(f"after   {least.step:24} {least.least_us:9.2f} {least.median_us:9.2f}   the least of {len(kernels)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0."""
    parser = OneLineParser(prog="python -m benchmarks.look", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, help="bundle of this checkout")
    parser.add_argument("--before", type=Path, help="folder of an older checkout")
    parser.add_argument("--before-bundle", type=Path, help="bundle that it built of the same run")
    parser.add_argument("--calls", type=int, default=200, help="bursts of each step (default %(default)s)")
    parser.add_argument("--json", type=Path, help="writes the times there too")
    settings = parser.parse_args(arguments)
    _require_both(parser, settings.before, settings.before_bundle)
    engine = open_engine(settings.bundle)
    steps = make_steps("after", engine) + make_own_steps(engine)
    if settings.before is not None:
        steps = make_steps("before", open_engine(settings.before_bundle, settings.before)) + steps
    times = measure(steps, engine.bundle.golden()[0], settings.calls)
    print_times(times)
    if settings.json is not None:
        write_json(settings.json, {"cpu": cpu.model(), "times": [asdict(t) for t in times]})
    return 0


def _require_both(parser: argparse.ArgumentParser, checkout: Path | None, bundle: Path | None) -> None:
    if (checkout is None) != (bundle is None):
        parser.error("expected --before and --before-bundle, got one of them; give both or none")


if __name__ == "__main__":
    sys.exit(main())
