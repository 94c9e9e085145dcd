"""The cost model: counts are exact, known loops cost what the processor's manual says."""

import json
import re
import shutil
import struct
from collections import Counter

import numpy as np
import pytest

from targets import TargetError, find
from targets.arm import cycles, toolchain
from targets.arm.emulation import processor
from tests.support.small_modules import arguments, dots


@pytest.fixture(scope="module", autouse=True)
def _tools():
    try:
        cycles.version()
        toolchain.linker()
    except (cycles.CyclesError, TargetError) as error:
        pytest.skip(str(error))


def words(*codes: int) -> bytes:
    return struct.pack(f"<{len(codes)}I", *codes)


ADD, MUL = 0x8B010000, 0x9B017C00  # add x0, x0, x1; mul x0, x0, x1
SMULL = 0x0E20C000 | 1 << 5 | 1 << 16 | 3  # smull v3.8h, v1.8b, v1.8b
SDOT = 0x4E809400 | 1 << 5 | 2 << 16  # sdot v0.4s, v1.16b, v2.16b


def test_instructions_come_back_as_text():
    assert cycles.disassemble([words(ADD, MUL), words(SMULL), words(SDOT)]) == [
        ("add\tx0, x0, x1", "mul\tx0, x0, x1"),
        ("smull\tv3.8h, v1.8b, v1.8b",),
        ("sdot\tv0.4s, v1.16b, v2.16b",),
    ]


def test_a_chain_costs_its_latency_and_counts_multiply():
    code = Counter({words(ADD): 3, words(MUL): 5, words(ADD, ADD): 1})
    found = cycles.cost(code, "cortex-a72")
    assert found.instructions == 3 + 5 + 2
    by_text = {b.text: b for b in found.blocks}
    assert by_text["add\tx0, x0, x1",].count == 3
    assert 1.0 <= by_text["add\tx0, x0, x1",].cycles < 1.5  # one add waits for the other
    assert 5.0 <= by_text["mul\tx0, x0, x1",].cycles < 5.5
    assert found.cycles == pytest.approx(sum(b.count * b.cycles for b in found.blocks))
    assert [b.total for b in found.blocks] == sorted((b.total for b in found.blocks), reverse=True)


def test_the_dot_product_has_two_pipes_on_the_a76_and_long_multiplies_one_on_the_a72():
    smull = words(*(SMULL & ~31 | 3 + k for k in range(8)))
    sdot = words(*(SDOT | 3 + k for k in range(8)))
    for code, cpu, expected in ((smull, "cortex-a72", 8), (sdot, "cortex-a76", 4)):
        assert expected <= cycles.cost(Counter({code: 1}), cpu).cycles < expected + 1, cpu


def test_nothing_costs_nothing_and_other_processors_are_refused():
    assert cycles.cost(Counter(), "cortex-a72") == cycles.Cost(0, 0, ())
    with pytest.raises(cycles.CyclesError, match="expected a processor among cortex-a72.*got 'z80'"):
        cycles.cost(Counter({words(ADD): 1}), "z80")


def test_a_library_costs_what_its_blocks_cost(tmp_path):
    toolchain.build([dots()], find("arm:cortex-a72"), tmp_path / "m.so", tmp_path)
    run = processor.Runner(tmp_path / "m.so", "cortex-a72", count=True)
    x, w, table, expected = arguments()
    found = []
    for _ in range(2):
        np.testing.assert_array_equal(run(x, w, table, 64, 5), expected)
        found.append(cycles.cost(run.code(), "cortex-a72"))
    assert found[0] == found[1]
    # the block hook also sees the stand-in that main returns to, which is no instruction of the library's
    assert found[0].instructions == run.instructions == sum(len(b.text) * b.count for b in found[0].blocks)
    assert found[0].instructions / 3 <= found[0].cycles < 3 * found[0].instructions  # three a cycle at best
    assert any(re.match(r"ret", line) for b in found[0].blocks for line in b.text)
    assert (
        cycles.LlvmModel().estimate(tmp_path / "m.so", find("arm:cortex-a72"), (x, w, table, 64, 5)) == found[0].cycles
    )


def test_without_llvm_mca_the_message_says_what_to_install(monkeypatch):
    target, code = find("arm:cortex-a76"), Counter({words(ADD): 1})
    assert "LLVM" in cycles.LlvmModel().source(target) and "neoverse-n1" in cycles.LlvmModel().source(target)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for missing in (lambda: cycles.LlvmModel().source(target), lambda: cycles.cost(code, target.cpu)):
        with pytest.raises(cycles.CyclesError, match="llvm-mca.*LLVM 19 or later.*found none.*apt install llvm-19"):
            missing()


def test_a_file_costs_what_its_network_costs(tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("unicorn")
    from benchmarks import arm
    from compile.qdq.exporter import to_onnx
    from compile.qdq.importer import load
    from tests.support.graphs import random_graph

    (tmp_path / "w4a4.onnx").write_bytes(to_onnx(random_graph(3), {}).SerializeToString())
    files, out = [str(tmp_path / "w4a4.onnx")], tmp_path / "arm.json"
    assert arm.main([*files, "--cpus", "cortex-a72", "--json", str(out)]) == 0
    (record,) = json.loads(out.read_text())
    expected = arm.ours(load(files[0]), "cortex-a72")
    assert record["cycles"] == round(expected.cycles) > 0 and record["macs"] > 0
    assert (record["network"], record["bits"], record["cpu"]) == (tmp_path.name, "w4a4", "cortex-a72")
    assert arm.main([str(tmp_path / "none.onnx")]) == 1 and "expected an ONNX file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        arm.main([*files, "--peers"])
