"""Costs of processors that are only emulated: cycles of a model, alike on every machine, and the tables of them."""

import shutil

import pytest

from targets import find
from targets.costs.shapes import Shape
from targets.costs.table import MEASURED, load
from tests.support.graphs import resnet_like

pytest.importorskip("tvm")

from benchmarks.networks.random_networks import NETWORKS
from compile import profile
from compile.lowering.lower import lower
from compile.times.machine import missing_features
from compile.times.measured import Local
from compile.times.modelled import Modelled
from targets.arm import toolchain
from train.bits.cost import latency, relative
from train.network.architectures import architecture
from train.phases.find_bits import variant_bits

DEPTHWISE = Shape.parse("depthwise 3x3/1 12x12x48 -> 12x12x48")
DENSE = Shape.parse("linear 1x1/1 1x1x64 -> 1x1x10")


@pytest.fixture(scope="module")
def a72() -> Modelled:
    pytest.importorskip("unicorn")
    try:
        toolchain.linker()
        return Modelled(find("arm:cortex-a72"))
    except ValueError as error:
        pytest.skip(str(error))


def test_modelled_costs_are_cycles_that_do_not_vary(a72):
    for shape in (DEPTHWISE, DENSE):
        calls = [profile.layer_call(shape, bits, a72.target) for bits in ("w8a8", "w8a8")]
        first, second = a72.times(calls)
        assert first == second == Modelled(a72.target).times(calls)[0] > shape.work / 64
    assert a72.unit == "cycles, modelled by llvm-mca" and "LLVM" in a72.name
    assert isinstance(profile.machine_for(a72.target), Modelled if missing_features(a72.target) else Local)


def test_a_modelled_kernel_may_reach_past_the_end_of_its_weights(a72):
    call = profile.layer_call(Shape.parse("conv 1x1/1 6x6x192 -> 6x6x64"), "w2a2", a72.target)
    assert call.kernel.rule.startswith("bit serial") and a72.times([call])[0] > 0


@pytest.mark.parametrize("bits", [(8, 8), (2, 2)])
def test_a_network_costs_what_its_layers_cost(a72, bits):
    lowered = lower(resnet_like((bits,), size=8), a72.target)
    assert sum(a72.times(lowered.calls)) == pytest.approx(a72.network(lowered), rel=0.1)


def test_no_costs_without_llvm_mca(tmp_path, capsys, monkeypatch):
    pytest.importorskip("unicorn")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(profile, "machine_for", lambda target, _: Modelled(target))  # on an ARM machine too
    monkeypatch.setattr(profile, "known_layers", lambda: {DENSE: {"w8a8"}})
    assert profile.main(["--target", "arm:cortex-a72", "--out", str(tmp_path / "c.json")]) == 2
    assert "apt install llvm-19" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["arm:cortex-a72", "arm:cortex-a76"])
def test_arm_tables_hold_the_networks_layers_as_modelled_cycles(target):
    costs = load(target)
    assert costs.unit == "cycles, modelled by llvm-mca" and costs.machine.startswith(target.partition(":")[2])
    for name in ("resnet8", "resnet20", "mobilenetv2"):
        assert {
            how
            for bits in ("w8a8", "w4a4", "w2a2", "mixed")
            for _, time, how in costs.predict(NETWORKS[name].graph(bits, 96 if name == "mobilenetv2" else None))
        } == {MEASURED}


@pytest.mark.parametrize("target,slack", [("arm:cortex-a72", 1), ("arm:cortex-a76", 1.02)])  # sdot costs the same
@pytest.mark.parametrize("name,side", [("resnet8", None), ("resnet20", None), ("mobilenetv2", 96)])
def test_fewer_bits_never_take_longer_by_the_tables(target, slack, name, side):
    costs = load(target)
    predictions = [costs.predict(NETWORKS[name].graph(bits, side)) for bits in ("w8a8", "w4a4", "w2a2")]
    eight, four, two = (sum(time for _, time, _ in prediction) for prediction in predictions)
    assert two <= slack * four and four <= slack * eight


def test_latency_of_a_family_is_that_of_its_last_level():
    arch, table = architecture("resnet20", (32, 32, 3), 10), load("arm:cortex-a72")
    cost = latency("arm")
    assert (
        cost(arch.blocks[0].conv1, 2, 4)
        == table.entries[Shape.parse("conv 3x3/1 32x32x16 -> 32x32x16 border 1")]["w2a4"].time
    )
    two, four = (relative(cost, arch, variant_bits(arch, bits, bits)) for bits in (2, 4))
    assert 0.5 < two < four < 1.0
