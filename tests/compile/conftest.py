"""Fixtures of the compiler's tests: a run as training leaves it, and its bundle."""

from pathlib import Path

import pytest

from tests.support.graphs import pictures, resnet_like
from tests.support.runs import write_run

VARIANTS = {"w8a8": ((8, 8),), "mixed": ((8, 8), (4, 4), (3, 2)), "w2a2": ((2, 2),)}


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A run of three variants of a small ResNet."""
    graphs = {name: resnet_like(bits, seed=1) for name, bits in VARIANTS.items()}
    return write_run(tmp_path_factory.mktemp("runs") / "small", graphs, pictures(graphs["w8a8"], 6, 3))


@pytest.fixture(scope="session")
def bundle(run_folder, tmp_path_factory) -> Path:
    """The bundle of that run for x86."""
    from compile.build import build
    from compile.settings import BuildSettings
    from targets import find

    return build(BuildSettings(find("x86"), (run_folder,), tmp_path_factory.mktemp("bundles") / "small")).bundle
