"""What nvcc makes of the kernels: the promised instructions on every GPU, nothing spilled. Needs nvcc and cuobjdump."""

import platform
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from targets import TargetError, find
from targets.cuda import machine_code, routes, tiles, toolchain
from targets.library import elf
from tests.support.cuda_steps import graph_of, input_of, steps
from tests.support.small_modules import mirror

pytestmark = pytest.mark.slow

TARGET = find("cuda")
LARGE = next(t for t in tiles.TILES if (t.rows, t.columns, t.steps, t.stages) == (128, 64, 1, 2))
SMALL = next(t for t in tiles.TILES if (t.rows, t.columns, t.steps, t.stages) == (16, 16, 1, 3))
# (weight bits, activation bits, route, tile): those with most registers, and each route in a small one
CASES = (
    (8, 8, routes.Route(8, 8), replace(LARGE, steps=2)),
    (4, 8, routes.Route(8, 4), SMALL),
    (4, 4, routes.Route(4, 4), LARGE),
    (2, 2, routes.Route(4, 2), SMALL),
    (2, 8, routes.Route(8, 2), SMALL),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(library, facts) of a kernel for each case."""
    try:
        toolchain.nvcc()
        machine_code.cuobjdump()
    except TargetError as missing:
        pytest.skip(f"machine code is not checked: {missing}")
    rng, graphs, patch = np.random.default_rng(0), {}, pytest.MonkeyPatch()
    for w_bits, a_bits, route, _ in CASES:
        b = input_of(rng, (8, 8, 32), a_bits, [w_bits])
        graphs[route.name] = graph_of(b, b.conv("image", 64, kernel=3, w_bits=w_bits, padding=(0, 0, 0, 0)))
    chosen_routes, chosen_tiles = iter([c[2] for c in CASES]), iter([c[3] for c in CASES])
    patch.setattr(routes, "choose", lambda *_: next(chosen_routes))
    patch.setattr(tiles, "choose", lambda *_: next(chosen_tiles))
    found = steps(graphs, TARGET, np.zeros(2048, np.uint8))
    patch.undo()
    library = tmp_path_factory.mktemp("cuda") / "lib" / "m.so"
    library.parent.mkdir()
    facts = toolchain.build([found.module], TARGET, library, library.parent)
    return library, facts


def gemms(library, arch: int) -> list:
    """Instructions of each case's kernel."""
    found = machine_code.instructions(library, arch)
    return [found[name] for name in sorted((n for n in found if "gemm" in n), key=lambda n: int(n.split("_")[-1]))]


def test_nothing_spills_and_shared_memory_is_static(built):
    _, facts = built
    assert facts["archs"] == [f"sm_{a}" for a in TARGET.archs]
    assert facts["spilled"] == facts["stack"] == 0
    assert 0 < facts["shared"] <= tiles.SHARED_BYTES and facts["registers"] <= 255


@pytest.mark.parametrize("arch", TARGET.archs)
def test_promised_instructions_are_there(built, arch):
    """One instruction for each step of each fragment: u4.s4 where it is native, bytes elsewhere."""
    kernels = gemms(built[0], arch)
    assert len(kernels) == len(CASES)
    for (_, _, route, tile), found in zip(CASES, kernels, strict=True):
        native = route.container == 4 and 10 * arch < routes.INT4_UNTIL
        name, each = ("IMMA.16864.U4.S4", route.fields // 2) if native else ("IMMA.16832.U8.S8", route.fields)
        matrix = {op: n for op, n in found.items() if "MMA" in op}
        once = tile.warp_rows // 16 * tile.warp_columns // 8 * tile.steps * each
        assert set(matrix) == {name} and matrix[name] % once == 0 and matrix[name] > 0
        assert any(op.startswith("LDGSTS") for op in found)
        assert not any(op.startswith(("CALL", "LDL", "STL")) for op in found)


def test_statistics_are_read_in_full():
    with pytest.raises(TargetError, match="expected ptxas -v to tell"):
        toolchain.statistics("ptxas info    : Compiling entry function 'a' for 'sm_87'\n")


def test_a_library_for_orin_needs_its_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.platform, "machine", lambda: "x86_64")
    with pytest.raises(TargetError, match="expected aarch64-linux-gnu-g.. to build for another machine.*--source-only"):
        toolchain._host(find("cuda:orin"), tmp_path)


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None or platform.machine() != "x86_64",
    reason="needs aarch64-linux-gnu-g++ on x86-64; apt install g++-aarch64-linux-gnu",
)
def test_a_library_for_orin_built_here(tmp_path):
    try:
        toolchain.nvcc()
    except TargetError as missing:
        pytest.skip(str(missing))
    facts = toolchain.build([mirror()], find("cuda:orin"), tmp_path / "m.so", tmp_path)
    found = elf.read(tmp_path / "m.so")
    assert found.machine == "aarch64" and facts["archs"] == ["sm_87"]
    assert {"libtvm_ffi.so", f"libcudart.so.{facts['compiler'].split('.')[0]}"} <= set(found.needed)
    assert (tmp_path / "rebuild.sh").exists()
    cuda = {name for name in found.undefined if name.startswith("cuda")}
    assert "cudaLaunchKernelExC" in cuda  # and nothing that allocates, copies or waits: main fits into a CUDA graph
    assert not [name for name in cuda if re.search("Malloc|Free|Mem|Sync|Wait|Event|StreamCreate", name)]
