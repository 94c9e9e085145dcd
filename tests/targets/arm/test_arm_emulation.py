"""The emulated ARM processors: right code gives what numpy gives, wrong code is caught."""

import re

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")
pytest.importorskip("unicorn")

from targets import TargetError, find
from targets.arm import toolchain
from targets.arm.emulation import processor
from targets.library import elf
from tests.support.small_modules import arguments, dot_product, dots

TARGETS = ["arm:cortex-a72", "arm:cortex-a76", "arm:cortex-a78ae"]


@pytest.fixture(scope="module", autouse=True)
def linker():
    try:
        toolchain.linker()
    except TargetError as error:
        pytest.skip(str(error))


def built(tmp_path, module, target="arm:cortex-a72"):
    toolchain.build([module], find(target), tmp_path / "m.so", tmp_path)
    return tmp_path / "m.so"


@pytest.mark.parametrize("target", TARGETS)
def test_dots_equal_numpy(tmp_path, target):
    run = toolchain.runner(built(tmp_path, dots(), target), find(target))
    for seed in range(3):
        x, w, table, expected = arguments(seed=seed)
        np.testing.assert_array_equal(run(x, w, table, 64, 5), expected)


def test_dot_product_needs_its_processor(tmp_path):
    library = built(tmp_path, dot_product(), "arm:cortex-a76")
    x, w, table, expected = arguments(classes=4, top=128)
    np.testing.assert_array_equal(processor.Runner(library, "cortex-a76")(x, w, table, 1, 4), expected)
    with pytest.raises(processor.EmulationError, match="emulated cortex-a72: one this processor does not have"):
        processor.Runner(library, "cortex-a72")(x, w, table, 1, 4)


@pytest.mark.parametrize(
    "fault, message",
    [
        (dict(read=1), "READ_UNMAPPED.*an access outside every buffer"),
        (dict(read=-1), "READ_UNMAPPED.*an access outside every buffer"),
        (dict(write=-3), "wrote before the buffer logits of 20 bytes"),
        (dict(write=3), "wrote after the buffer logits of 20 bytes"),
        (dict(write=64), "WRITE_UNMAPPED.*an access outside every buffer"),
        (dict(write_into="weights"), "WRITE_PROT"),
        (dict(write_into="picture"), "WRITE_PROT"),
        (dict(write_into="table"), "WRITE_PROT"),
    ],
)
def test_what_leaves_its_buffers_is_caught(tmp_path, fault, message):
    n = 1 << 16  # whole pages: the byte after and the byte before are guarded as well
    run = toolchain.runner(built(tmp_path, dots(n if "read" in fault else 64, **fault)), find("arm:cortex-a72"))
    x, w, table, _ = arguments(n if "read" in fault else 64)
    with pytest.raises(processor.EmulationError, match=message):
        run(x, w, table, x.size, 5)


def test_what_is_never_written_shows(tmp_path):
    run = toolchain.runner(built(tmp_path, dots(write_into="workspace")), find("arm:cortex-a72"))
    x, w, table, expected = arguments()
    assert (run(x, w, table, 64, 5) != expected).all()


def test_an_error_of_main_is_shown(tmp_path):
    run = toolchain.runner(built(tmp_path, dots()), find("arm:cortex-a72"))
    x, w, table, _ = arguments(60)
    with pytest.raises(processor.EmulationError, match=re.compile("main reported ValueError.*expected 64", re.DOTALL)):
        run(x, w, table, 64, 5)


def test_block_moves_have_stand_ins(tmp_path):
    library = built(tmp_path, dots(5000, calls=True))
    assert {"memcpy", "memset"} <= set(elf.read(library).undefined)
    x, w, table, expected = arguments(5000)
    np.testing.assert_array_equal(processor.Runner(library, "cortex-a72")(x, w, table, 5000, 5), expected)


def test_new_weights_are_uploaded(tmp_path):
    run = toolchain.runner(built(tmp_path, dots()), find("arm:cortex-a72"))
    for seed in (0, 1, 0):
        x, w, table, expected = arguments(seed=seed)
        np.testing.assert_array_equal(run(x, w, table, 64, 5), expected)


def test_instruction_counts_do_not_vary(tmp_path):
    library = built(tmp_path, dots())
    x, w, table, _ = arguments()
    counts = set()
    for _ in range(2):
        run = processor.Runner(library, "cortex-a72", count=True)
        for _ in range(2):
            run(x, w, table, 64, 5)
            counts.add(run.instructions)
    assert len(counts) == 1 and counts.pop() > 100


def test_other_processors_and_machines_are_refused(tmp_path):
    with pytest.raises(processor.EmulationError, match="expected a processor among cortex-a72.*got 'cortex-m4'"):
        processor.Runner(built(tmp_path, dots()), "cortex-m4")
    data = bytearray((tmp_path / "m.so").read_bytes())
    data[18] = 62  # an x86-64 library by its header
    (tmp_path / "x.so").write_bytes(data)
    with pytest.raises(processor.EmulationError, match="expected an aarch64 library, got one for x86_64"):
        processor.Runner(tmp_path / "x.so", "cortex-a72")
