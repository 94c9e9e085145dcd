"""Fixtures of the benchmarks' tests: a network prepared for a GPU, as far as that goes without nvcc."""

from pathlib import Path

import pytest

from tests.support.graphs import pictures, resnet_like

BATCH, GOLDEN = 2, 5  # pictures at once, golden pictures of the prepared network


@pytest.fixture(scope="session")
def cuda_folder(tmp_path_factory) -> Path:
    """A small network for two pictures, and one peak."""
    pytest.importorskip("tvm")
    pytest.importorskip("torch")
    from benchmarks.cuda.cases import PreparedNetwork, write_case
    from benchmarks.cuda.golden import expected_logits
    from benchmarks.cuda.peak import write_peak
    from targets import find

    root, target = tmp_path_factory.mktemp("cases"), find("cuda:sm_87")
    graph = resnet_like(((8, 8), (4, 4)), size=8)
    x = pictures(graph, GOLDEN, 3)
    network = PreparedNetwork("small", "mixed", graph, x, expected_logits(graph, x))
    write_case(root, network, target, BATCH, source_only=True)
    write_peak(root, 4, target, source_only=True)
    return root


@pytest.fixture(scope="session")
def cuda_case(cuda_folder):
    """The case of that network."""
    from benchmarks.cuda.case import find_networks, read_cases

    (case,) = read_cases(find_networks(cuda_folder))
    return case
