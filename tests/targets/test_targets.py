"""Target descriptions, and the toolchains that make libraries of TIR modules: what they make and what they refuse."""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle.manifest import signed
from runtime.machine import cpu
from targets import TargetError, find, targets
from targets.library import elf

tvm = pytest.importorskip("tvm")

from targets.arm import toolchain as arm
from targets.cuda import toolchain as cuda
from targets.x86 import toolchain as x86
from tests.support.small_modules import arguments, dot_product, dots, mirror

pytestmark = pytest.mark.slow

LLVM_FEATURE = {"avx2": "avx2", "fma": "fma", "asimd": "neon", "asimddp": "dotprod"}  # /proc/cpuinfo's word -> LLVM's
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc here: the .cu files are not compiled")
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86 machine")


@pytest.fixture(scope="module")
def arm_linker():
    try:
        arm.linker()
    except TargetError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "text, levels",
    [
        ("x86", ["x86:avx512-vnni", "x86:avx-vnni", "x86:avx2"]),
        ("arm", ["arm:cortex-a76", "arm:cortex-a72"]),
        ("x86:avx2", []),
        ("arm:cortex-a76", []),
        ("arm:cortex-a78ae", []),
        ("cuda", []),
        ("cuda:sm_87", []),
    ],
)
def test_find(text, levels):
    target = find(text)
    assert target.name == text and [v.name for v in target.levels] == levels
    assert [find(v.name) for v in target.levels] == list(target.levels)
    assert target.compiled_for == (target.levels or (target,))


def test_levels_have_functions_of_their_own():
    x86, avx2 = find("x86"), find("x86:avx2")
    assert [x86.suffix(v) for v in x86.levels] == ["_avx512_vnni", "_avx_vnni", "_avx2"]
    assert avx2.suffix(avx2) == ""


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", None),
        ("mips", None),
        ("arm:", "arm"),
        ("arm:cortex-a53", "arm:cortex-a76"),
        ("cuda:87", "cuda:sm_87"),
        ("X86", "x86"),
        ("pi6", "pi5"),
    ],
)
def test_unknown_targets_are_refused_with_what_exists(text, meant):
    with pytest.raises(TargetError) as refused:
        find(text)
    said = str(refused.value)
    assert said.startswith(f"there is no target {text!r} (families: ")
    assert said.endswith(f"; did you mean {meant}?") if meant else ("did you mean" not in said)
    for name in ("arm:cortex-a72", "cuda:sm_87", "x86:avx512-vnni", "jetson"):
        assert name in said


@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name)
def test_descriptions(target):
    assert find(target.name) is target
    assert json.loads(json.dumps(target.tvm)) == target.tvm
    assert bool(target.requires) == bool(target.tvm) != bool(target.levels)
    assert target.machine in ("x86_64", "aarch64")
    assert list(target.archs) == sorted(target.archs)
    assert bool(target.archs) == (target.family == "cuda") == target.compiled_for[0].requires[0].startswith("sm_")
    for level in target.levels:
        assert (level.family, level.machine, level.levels) == (target.family, target.machine, ())
    for better, worse in zip(target.levels, target.levels[1:], strict=False):
        assert not set(better.requires) <= set(worse.requires)  # or the worse one would never run
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.name = "another"


@pytest.mark.parametrize("target", [t for t in targets() if t.family != "cuda" and t.tvm], ids=lambda t: t.name)
def test_what_a_target_requires_is_what_the_compiler_may_use(target):
    compiled_for = tvm.target.Target(target.tvm)
    for word, feature in LLVM_FEATURE.items():
        has = tvm.target.codegen.target_has_features(feature, compiled_for)
        assert has == (word in target.requires), f"{word} of {target.name}"


def test_descriptions_need_the_standard_library_only():
    code = "import sys, targets; targets.targets(); print([m for m in ('numpy', 'tvm', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@needs_x86
def test_x86_library(tmp_path):
    target = find("x86:avx2")
    facts = x86.build([dots()], target, tmp_path / "m.so", tmp_path / "work")
    x, w, table, expected = arguments()
    np.testing.assert_array_equal(x86.runner(tmp_path / "m.so", target)(x, w, table, 64, 5), expected)
    library = elf.read(tmp_path / "m.so")
    assert library.machine == "x86_64" and library.needed == () and "__tvm_ffi_main" in library.defined
    assert facts["command"].endswith("-o m.so m.o")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.so", "work"]


@needs_x86
def test_a_library_built_again_at_its_place_is_the_one_that_runs(tmp_path):
    target = find("x86:avx2")
    for n in (64, 48):  # dlopen would keep the first
        x86.build([dots(n)], target, tmp_path / "m.so")
        x, w, table, expected = arguments(n)
        np.testing.assert_array_equal(x86.runner(tmp_path / "m.so", target)(x, w, table, n, 5), expected)


@needs_x86
def test_one_library_holds_the_code_of_every_level(tmp_path):
    """Modules of different sums under one name each, whose private functions have the same names."""
    target, sizes = find("x86"), (64, 48, 80)
    x86.build([dots(n) for n in sizes], target, tmp_path / "m.so", tmp_path / "work")
    names = {p.name for p in (tmp_path / "work").iterdir()}
    assert names == {f"m_{v}.{end}" for v in ("avx512_vnni", "avx_vnni", "avx2") for end in ("s", "o")}
    for n, level in zip(sizes, target.levels, strict=True):
        x, w, table, expected = arguments(n)
        if not cpu.features().issuperset(level.requires):
            continue
        run = x86.runner(tmp_path / "m.so", level, "main" + target.suffix(level))
        np.testing.assert_array_equal(run(x, w, table, n, 5), expected)


def test_arm_levels_run_on_their_processors(tmp_path, arm_linker):
    target, top = find("arm"), 128  # sdot takes signed codes
    arm.build([dot_product(), dots(classes=4)], target, tmp_path / "m.so")
    x, w, table, expected = arguments(classes=4, top=top)
    for level in target.levels:
        run = arm.runner(tmp_path / "m.so", level, "main" + target.suffix(level))
        np.testing.assert_array_equal(run(x, w, table, 64 if level.cpu == "cortex-a72" else 1, 4), expected)
    with pytest.raises(TargetError, match="expected the function __tvm_ffi_main_cortex_a53, got .*main_cortex_a72"):
        arm.runner(tmp_path / "m.so", target.levels[0], "main_cortex_a53")
    with pytest.raises(TargetError, match="sdot.*cortex-a72 lacks"):
        arm.build([dots(), dot_product()], target, tmp_path / "n.so")


def test_arm_library(tmp_path, arm_linker):
    arm.build([dots()], find("arm:cortex-a72"), tmp_path / "m.so", tmp_path)
    library = elf.read(tmp_path / "m.so")
    assert library.machine == "aarch64" and library.needed == () and "__tvm_ffi_main" in library.defined
    assert all(s.startswith("TVMFFI") or s in ("memcpy", "memset", "memmove") for s in library.undefined)
    with pytest.raises(TargetError, match="expected a library for x86_64, got one for aarch64"):
        x86.llvm.check_library(tmp_path / "m.so", find("x86:avx2"))


def test_an_instruction_the_processor_lacks_is_refused_before_llvm_sees_it(tmp_path, arm_linker):
    with pytest.raises(TargetError, match="sdot.*dotprod.*cortex-a72 lacks"):
        arm.build([dot_product()], find("arm:cortex-a72"), tmp_path / "m.so", tmp_path)
    arm.build([dot_product()], find("arm:cortex-a76"), tmp_path / "m.so", tmp_path)


@needs_x86
def test_what_needs_the_tvm_runtime_is_refused(tmp_path):
    with pytest.raises(TargetError, match="__TVMBackendParallelLaunch.*T.parallel"):
        x86.build([dots(parallel=True)], find("x86:avx2"), tmp_path / "m.so", tmp_path)
    assert not (tmp_path / "m.so").exists()


@pytest.mark.parametrize("toolchain", [x86, arm], ids=["x86", "arm"])
def test_no_linker_says_what_to_install(toolchain, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match="found none; install one: apt install binutils.*pip install ziglang"):
        toolchain.linker()


@pytest.mark.parametrize("family, toolchain", [("x86", x86), ("arm", arm)])
def test_source_only_is_for_cuda(family, toolchain, tmp_path):
    with pytest.raises(TargetError, match="source only is for CUDA"):
        toolchain.build([dots()], find(family).levels[0], tmp_path / "m.so", tmp_path, source_only=True)


def test_elf_reader_refuses_other_files(tmp_path):
    (tmp_path / "m.so").write_bytes(b"not a library at all")
    with pytest.raises(elf.ElfError, match="expected a 64-bit little-endian ELF shared library"):
        elf.read(tmp_path / "m.so")


def test_cuda_source_only_keeps_what_a_board_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    facts = cuda.build([mirror()], find("cuda"), tmp_path / "m.so", tmp_path, source_only=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.cu", "rebuild.sh"]
    script = (tmp_path / "rebuild.sh").read_text()
    assert os.access(tmp_path / "rebuild.sh", os.X_OK) and "fast_math" not in script
    for arch in (80, 86, 87, 89, 90):
        assert f"code=sm_{arch}" in script and f"code=sm_{arch}" in facts["command"]
    assert "code=compute_90" in script and "cudart static" in script


def test_no_nvcc_names_source_only(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("NVCC", raising=False)
    monkeypatch.setattr(cuda, "_PLACES", ())
    with pytest.raises(TargetError, match="expected nvcc .*--source-only"):
        cuda.build([mirror()], find("cuda"), tmp_path / "m.so", tmp_path)


@needs_nvcc
def test_cuda_library(tmp_path):
    import tvm_ffi

    facts = cuda.build([mirror()], find("cuda"), tmp_path / "m.so", tmp_path)
    assert facts["archs"] == ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90"]
    assert facts["kernels"] == 1 and facts["spilled"] == 0 and facts["stack"] == 0 and facts["registers"] > 0
    with pytest.raises(ValueError, match="expected cuda"):  # it loads and checks its arguments without a GPU
        sizes = ((64, "u1"), (1, "i1"), (64, "i4"), (1, "u1"), (64, "i4"))
        tvm_ffi.load_module(str(tmp_path / "m.so"))["main"](*(tvm_ffi.from_dlpack(np.zeros(n, d)) for n, d in sizes))


@needs_nvcc
def test_a_board_rebuilds_its_library_and_enters_it_in_the_manifest(tmp_path):
    folder = tmp_path / "lib"
    folder.mkdir()
    cuda.build([mirror()], find("cuda:sm_87"), folder / "m.so", tmp_path, source_only=True)
    manifest = {"target": {"machine": "aarch64"}, "files": {"lib/m.cu": {"bytes": 1}}}
    (tmp_path / "manifest.json").write_text(json.dumps(signed(manifest)))
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([str(folder / "rebuild.sh")], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["target"]["machine"] == platform.machine()
    assert manifest["files"]["lib/m.so"]["bytes"] == (folder / "m.so").stat().st_size
    assert manifest["files"]["lib/m.cu"] == {"bytes": 1}
    assert elf.read(folder / "m.so").machine == platform.machine()


def test_ptxas_statistics_are_read():
    log = (
        "ptxas info    : Compiling entry function 'a' for 'sm_87'\nptxas info    : Function properties for a\n"
        "    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\nptxas info    : Used 40 registers\n"
        "ptxas info    : Compiling entry function 'b' for 'sm_87'\nptxas info    : Function properties for b\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 12 registers\n"
    )
    assert cuda.statistics(log) == {
        "archs": ["sm_87"],
        "kernels": 2,
        "registers": 40,
        "spilled": 12,
        "stack": 16,
        "shared": 0,
    }
    with pytest.raises(TargetError, match="expected ptxas -v"):
        cuda.statistics("nothing")
