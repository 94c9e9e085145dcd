"""Peers held to AVX2: what is replaced in a library, what is not, and that it works."""

import ctypes
import mmap
import platform
from importlib.util import find_spec

import pytest

from benchmarks.peers import avx2
from runtime.machine import cpu

QUESTION = bytes.fromhex("0f01d0")


@pytest.mark.parametrize(
    "before, replaced",
    [
        ("31c9", True),  # xor ecx, ecx
        ("33c9", True),
        ("b900000000", True),  # mov ecx, 0
        ("31c9" + "90" * 14, True),
        ("31c9" + "90" * 15, False),  # too far to belong to it
        ("83e00f", False),  # and eax, 15; add eax, edx: no question at all
        ("b901000000", False),  # register 1
    ],
)
def test_patch_replaces_questions_about_register_0_alone(before, replaced):
    code = b"\xcc" * 20 + bytes.fromhex(before) + QUESTION + b"\xcc" * 5
    new, count = avx2.patch(code)
    assert (count, len(new)) == (int(replaced), len(code))
    assert new == (code.replace(QUESTION, avx2.ANSWER) if replaced else code)


def test_patch_replaces_every_question():
    code = (b"\x31\xc9" + QUESTION + b"\x90" * 20) * 3 + QUESTION
    new, count = avx2.patch(code)
    assert count == 3 and new.count(avx2.ANSWER) == 3 and new.endswith(QUESTION)


@pytest.mark.skipif(platform.machine() != "x86_64" or "xsave" not in cpu.features(), reason="runs x86-64 code")
def test_patched_code_answers_as_an_old_system():
    def answer(code: bytes) -> int:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        return ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

    code = bytes.fromhex("31c9") + QUESTION + bytes.fromhex("c3")  # xor ecx, ecx; xgetbv; ret
    assert answer(code) & 7 == 7
    assert answer(avx2.patch(code)[0]) == 7


def test_a_copy_of_a_package_is_patched_and_the_package_is_not(tmp_path):
    package, code = tmp_path / "site" / "peer", b"\x31\xc9" + QUESTION
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").write_text("VALUE = 7")
    (package / "capi" / "peer.cpython-311.so").write_bytes(code)
    (package / "capi" / "libpeer.so.1.2").write_bytes(b"\0" + code)
    assert avx2.copy_patched(package, tmp_path / "copy") == 2
    assert (tmp_path / "copy" / "capi" / "libpeer.so.1.2").read_bytes() == b"\0\x31\xc9" + avx2.ANSWER
    assert (package / "capi" / "libpeer.so.1.2").read_bytes() == b"\0" + code
    assert (tmp_path / "copy" / "__init__.py").resolve() == package / "__init__.py"


def test_a_package_without_the_question_is_refused(tmp_path):
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "lib.so").write_bytes(b"\x90" * 64 + QUESTION)
    with pytest.raises(ValueError, match="cannot be held to AVX2"):
        avx2.copy_patched(tmp_path / "peer", tmp_path / "copy")


def test_a_processor_that_cannot_be_hidden_is_refused(monkeypatch):
    monkeypatch.setattr(avx2.cpu, "features", lambda: frozenset({"avx2", "avx_vnni"}))
    with pytest.raises(ValueError, match="without AVX-VNNI"):
        avx2.run_held_to_avx2("benchmarks.latency", [])


PROBE = """
import numpy as np
import openvino
from openvino import opset13 as op
x = op.parameter([1, 16, 8, 8], openvino.Type.f32)
weights = np.full((16, 16, 3, 3), 0.5, np.float32)
model = openvino.Model([op.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])], [x])
print(openvino.__file__)
for node in openvino.Core().compile_model(model, "CPU").get_runtime_model().get_ops():
    print(node.get_rt_info()["primitiveType"].astype(str))
"""


@pytest.mark.skipif(find_spec("openvino") is None or "avx_vnni" in cpu.features(), reason="needs OpenVINO, no AVX-VNNI")
def test_openvino_picks_no_avx512_kernel(tmp_path, monkeypatch, capfd):
    """What it chose for a convolution, told by itself; the installed copy chooses avx512 where the processor has it."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(avx2, "PATCHED_PACKAGES", ("openvino",))
    assert avx2.run_held_to_avx2("probe", []) == 0
    out = capfd.readouterr().out
    assert "openvino: held to AVX2" in out and "site-packages/openvino/__init__.py" not in out
    assert "avx2" in out.replace("AVX2", "") and "avx512" not in out
