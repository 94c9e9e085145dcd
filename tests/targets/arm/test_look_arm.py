"""A look's code for ARM gives numpy's integers on an emulated processor, with every buffer between guard pages."""

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("unicorn")

from compile.bundle.look import chosen_by, resized_by
from runtime.choice import quality
from runtime.choice.escalation import margin
from runtime.pictures import arrays
from targets import TargetError, find
from targets.arm import toolchain
from targets.family import load
from tests.support.looks import compile_for, make_look, make_pictures, make_selector

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def linker():
    try:
        toolchain.linker()
    except TargetError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("cpu", ["arm:cortex-a72", "arm:cortex-a76"])
@pytest.mark.parametrize("size, wide", [((8, 9), False), ((17, 33), True), ((32, 32), False)])
def test_everything_it_computes(cpu, size, wide, tmp_path):
    target = find(cpu)
    selector = make_selector(12, wide=wide)
    look = make_look(size, selector)
    call = compile_for(look, target, tmp_path)
    workspace = look.workspace(load("arm").vectors(target))
    for picture in make_pictures(size, 2):
        features = quality.features(picture)
        expected = [*selector.choose(features, 0.37), *features[0]]
        assert chosen_by(call, look, workspace, picture, 0.37).tolist() == expected
    for old in ((1, 1), (7, 50), (61, 40)):
        picture = np.random.default_rng(3).integers(0, 256, (*old, 3), np.uint8)
        np.testing.assert_array_equal(resized_by(call, picture, size), arrays.resize(picture, size))
    logits = np.random.default_rng(4).integers(-(1 << 31), 1 << 31, 10).astype(np.int32)
    expected = [logits.argmax(), margin(logits[None])[0]]
    assert call("rank", [logits, np.zeros(2, np.int64)])[1].tolist() == expected
