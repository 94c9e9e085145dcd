"""Private variants: the same integer weights, statistics and steps of their own, trained in turns."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.sessions import killed_after_checkpoint
from train.bits.configs import CONFIGS_FILE as CONFIGS
from train.bits.configs import ConfigsError, read
from train.data.batches import Batches
from train.evidence.evidence import Evidence
from train.integers.lowering import lower
from train.learn import learn
from train.loop.checkpoint import load_checkpoint, tensors_of
from train.loop.phase import Feed
from train.loop.session import Resume
from train.loop.state import PRIVATE
from train.network.architectures import Layer, architecture
from train.network.network import Network, key
from train.network.weights import load_weights, save_weights
from train.phases.find_bits import BitSource
from train.phases.joint import make_student, private_layers
from train.phases.private import PrivatePhase, _trained_layers
from train.run import run_training
from train.settings.command_line import parse
from train.settings.settings import Settings
from train.settings.training import PRIVATE_WEIGHTS

pytestmark = pytest.mark.slow

ARCH = architecture("resnet8", (8, 8, 3), 10)
DATA = "--limit 96 --batch 16 --epochs 1 --fp-epochs 1 --families clean,gaussian_noise --workers 1".split()
BROUGHT = [*DATA, "--private-epochs", "2"]
SMALL = [*BROUGHT, "--bits", "4,2"]


def trained(out, *more):
    learn(parse([*SMALL, *more, "--out", str(out)]))
    return load_checkpoint(out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("private")
    return out, *trained(out)


def test_every_shared_variant_gets_one_for_every_quality(run):
    out, _, state = run
    configs = read(out / CONFIGS)
    shared = [v for v in configs.variants if not v.base]
    private = [v for v in configs.variants if v.base]
    assert [v.name for v in shared] == ["w4a4", "w2a2"] and all(not v.kinds for v in shared)
    assert {(v.base, v.kinds) for v in private} == {(v.name, (g,)) for v in shared for g in range(2)}
    costs = {v.name: v.cost for v in shared}
    assert all(v.bits == configs.bits[v.base] and v.cost == costs[v.base] for v in private)
    assert Resume(state).past(PRIVATE) and [v.name for v in state.configs.variants] == list(configs.bits)


def test_of_one_quality_there_are_no_private_variants_and_shared_ones_have_all_steps(run, tmp_path):
    tensors, state = trained(tmp_path, "--kinds", "1")
    assert [v.name for v in state.configs.variants] == ["w4a4", "w2a2"] and Resume(state).past(PRIVATE)
    lines = [map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) for out in (run[0], tmp_path)]
    steps, steps_of_one_kind = ([line["step"] for line in of_run if line["phase"] == "private"] for of_run in lines)
    weight = "student.convs.conv1.weight"
    assert steps == steps_of_one_kind and not torch.equal(tensors[weight], run[1][weight])


def test_private_variants_share_the_integers_of_inner_layers_and_nothing_else_that_learns(run):
    out, tensors, _ = run
    configs = read(out / CONFIGS)
    ends = {layer.name for layer in ARCH.ends}
    net = make_student(parse(SMALL), ARCH, configs)
    net.load_state_dict(tensors_of(tensors, "student"))
    for v in (v for v in configs.variants if v.base):
        nodes = list(zip(lower(net, v.name).nodes, lower(net, v.base).nodes, strict=True))
        for a, b in nodes:
            if hasattr(a, "weight"):
                assert np.array_equal(a.weight, b.weight) == (a.name not in ends), (v.name, a.name)
        assert any(not np.array_equal(a.bias, b.bias) for a, b in nodes if hasattr(a, "bias"))
        for conv in net.convs.values():
            private, shared = conv.variants[v.name], conv.variants[v.base]
            assert torch.equal(private.w.log_step, shared.w.log_step) == (conv.layer not in ARCH.ends)
        assert not torch.equal(net.streams[v.name].log_base, net.streams[v.base].log_base)


def turns(own: tuple[Layer, ...], layers: tuple[Layer, ...]) -> list[set[str]]:
    """Names of the parameters that the shared variant's turn and the private one's bring a gradient."""
    torch.manual_seed(0)
    net = Network(ARCH, {"w4a4": {layer.name: (4, 4) for layer in ARCH.layers}})
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 8, 8, 3), np.uint8)
    batches = Batches(pictures, np.arange(32) % 10, batch=8, pictures=0, seed=0, flip=False, device=torch.device("cpu"))
    net.calibrate(batches.sample(16))
    net.add_private("w4a4-q0", "w4a4", own)
    views = torch.zeros(2, 32, dtype=torch.bool)
    views[1] = True
    feeds = Feed(("w4a4",)), Feed(("w4a4-q0",), views)
    phase = PrivatePhase("private", net, ("w4a4",), 1, 1e-2, None, feeds, layers=layers)
    orders = phase.orders(batches, 0)
    reached = []
    assert bool((orders[1][1] == 1).all())  # only views of its own quality
    for turn in range(2):
        ((name, loss),) = phase.losses(batches, orders, 0, turn)
        assert name == "w4a4"
        phase.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        phase.optimizer.step()
        reached.append({n for n, p in net.named_parameters() if p.grad is not None})
        assert {n for n, p in net.named_parameters() if not torch.equal(p, before[n])} <= reached[-1]
    return reached


def test_without_layers_weights_rest_and_turns_train_one_quality_at_a_time():
    for moved, variant in zip(turns((), ()), ("w4a4", "w4a4-q0"), strict=True):
        assert moved and all(f"variants.{variant}." in n or n == f"streams.{variant}.log_base" for n in moved)
        assert not any(".w." in n or n.endswith("conv.weight") for n in moved)


@pytest.mark.parametrize("which", PRIVATE_WEIGHTS[1:])
def test_with_private_weights_those_of_shared_variants_train_too(which):
    own = private_layers(ARCH, which)
    shared, private = turns(own, own)
    for layer in ARCH.layers:
        weight, variants = f"convs.{key(layer)}.weight", f"convs.{key(layer)}.variants"
        of_shared = {weight, f"{variants}.w4a4.w.log_step"}
        of_private = {f"{variants}.w4a4-q0.weight", f"{variants}.w4a4-q0.w.log_step"}
        for moved, names in ((shared, of_shared), (private, of_private)):
            assert moved & (of_shared | of_private) == (names if layer in own else set()), layer.name


def test_weights_that_are_shared_train_in_every_turn():
    both = turns(ARCH.ends, ARCH.layers)
    for layer in ARCH.layers:
        reached = {f"convs.{key(layer)}.weight", f"convs.{key(layer)}.variants.w4a4.w.log_step"}
        assert [reached <= moved for moved in both] == [True, layer not in ARCH.ends], layer.name


def test_weights_rest_where_a_variant_would_be_left_behind(run):
    configs = read(run[0] / CONFIGS)
    assert _trained_layers(configs, ARCH) == ARCH.layers
    policy_variant = replace(configs.variants[0], name="dqmq-q0", kinds=(0,))
    assert _trained_layers(replace(configs, variants=(*configs.variants, policy_variant)), ARCH) == ()
    moved, private = turns(ARCH.ends, ())
    assert not any(n.endswith("conv.weight") or ".w." in n for n in moved)
    own = {f"convs.{key(layer)}.variants.w4a4-q0.{part}" for layer in ARCH.ends for part in ("weight", "w.log_step")}
    assert {n for n in private if (n.endswith("weight") and "norm" not in n) or ".w." in n} == own


def test_private_variants_given_by_a_file_are_for_their_kinds_and_no_longer_private(run, tmp_path):
    words = [*BROUGHT, "--private-epochs", "0", "--configs", f"{run[0] / CONFIGS}:w4a4,w4a4-q1", "--out", str(tmp_path)]
    learn(parse(words))
    variants = read(tmp_path / CONFIGS).variants
    assert [(v.name, v.kinds, v.base) for v in variants] == [("w4a4", (), ""), ("w4a4-q1", (1,), "")]


@pytest.mark.parametrize(
    "names, more, message",
    [
        ("w4a4,w4a4-q1", [], "w4a4-q1: --private-epochs makes variants of these names"),
        ("w4a4,w4a4-q1", ["--kinds", "3"], "brings its kinds of quality along, got --kinds 3"),
    ],
)
def test_what_a_file_brings_is_not_made_again(run, tmp_path, names, more, message):
    words = [*BROUGHT, "--configs", f"{run[0] / CONFIGS}:{names}", *more, "--out", str(tmp_path)]
    with pytest.raises(ConfigsError, match=message):
        learn(parse(words))


def test_no_private_variants_beside_such_as_a_file_brings_where_none_are_asked_for(run, tmp_path):
    learn(parse([*BROUGHT, "--configs", f"{run[0] / CONFIGS}:w4a4,w4a4-q1", "--kinds", "1", "--out", str(tmp_path)]))
    assert [(v.name, v.kinds, v.base) for v in read(tmp_path / CONFIGS).variants] == [
        ("w4a4", (), ""),
        ("w4a4-q1", (1,), ""),
    ]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: d.update(groups=None), "does not describe"),
        (lambda d: d["groups"].pop("means"), "does not describe"),
        (lambda d: d.update(groups={"foo": 1}), "does not describe"),
        (lambda d: d["groups"]["means"].pop(), "describe"),
        (lambda d: d["groups"]["covariances"][0].pop(), "does not describe"),
        (lambda d: d["variants"][-1].update(groups=[99]), "kinds of quality it describes, got .* for others"),
        (lambda d: d["variants"].append(d["variants"][0]), "variants of different names"),
    ],
)
def test_damaged_kinds_of_quality_are_refused_before_anything_is_trained(run, tmp_path, damage, message):
    content = json.loads((run[0] / CONFIGS).read_text())
    damage(content)
    (tmp_path / CONFIGS).write_text(json.dumps(content))
    with pytest.raises(ConfigsError, match=message):
        BitSource.of(Settings.of(configs=str(tmp_path / CONFIGS), budget=0.3), ARCH)


def test_killed_in_the_private_phase_and_resumed_ends_the_same(tmp_path, run):
    whole, tensors_of_whole, state_of_whole = run
    stopped = tmp_path / "stopped"
    with killed_after_checkpoint(lambda state: state.phase == PRIVATE and state.position.epoch == 1):
        trained(stopped)
    tensors, state = trained(stopped, "--resume")
    assert state == state_of_whole and tensors.keys() == tensors_of_whole.keys()
    assert all(torch.equal(t, tensors_of_whole[k]) for k, t in tensors.items())
    assert (stopped / CONFIGS).read_bytes() == (whole / CONFIGS).read_bytes()


def test_private_weights_are_own_integers_and_their_bytes_count(tmp_path):
    more = [*SMALL, "--bits", "4", "--test-pictures", "40"]
    run_training(parse([*more, "--private-weights", "none", "--out", str(tmp_path / "none")]))
    stored = {"none": json.loads((tmp_path / "none" / "run.json").read_text())["bytes"]}
    for which in PRIVATE_WEIGHTS[1:]:
        out = tmp_path / which
        words = [*more, "--private-weights", which, "--private-lr", "0.01", "--out", str(out)]
        run_training(parse(words))
        configs = read(out / CONFIGS)
        net = make_student(parse(words), ARCH, configs)
        net.load_state_dict(tensors_of(load_checkpoint(out)[0], "student"))
        shared, private = (lower(net, v.name) for v in configs.variants[:2])
        nodes = [(a, b) for a, b in zip(private.nodes, shared.nodes, strict=True) if hasattr(a, "weight")]
        differing = {a.name for a, b in nodes if not np.array_equal(a.weight, b.weight)}
        assert differing == {layer.name for layer in private_layers(ARCH, which)}
        stored[which] = json.loads((out / "run.json").read_text())["bytes"]
        assert stored[which]["tables"] == stored["none"]["tables"]
        learn(parse([*words, "--resume"]))
    ends = sum(layer.inputs * layer.outputs * layer.kernel**2 for layer in ARCH.ends)
    assert stored["ends"]["weights"] == stored["none"]["weights"] + 2 * ends
    assert 2 * stored["none"]["weights"] < stored["all"]["weights"] <= 3 * stored["none"]["weights"]


def test_without_private_epochs_nothing_is_added(tmp_path):
    learn(parse([*SMALL, "--private-epochs", "0", "--out", str(tmp_path)]))
    assert list(read(tmp_path / CONFIGS).bits) == ["w4a4", "w2a2"]


def test_full_precision_network_of_a_run_can_start_another(run, tmp_path):
    out, tensors, _ = run
    net = Network(ARCH, {})
    load_weights(net, out / "full.safetensors")
    assert all(torch.equal(t, load_file(out / "full.safetensors")[k]) for k, t in net.state_dict().items())
    assert all(torch.equal(t, tensors_of(tensors, "full_precision")[k]) for k, t in net.state_dict().items())
    save_weights(net, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (out / "full.safetensors").read_bytes()
    other = Network(architecture("resnet20", (8, 8, 3), 10), {})
    with pytest.raises(ValueError, match="give the --arch it was trained as"):
        load_weights(other, out / "full.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="broken.safetensors"):
        load_weights(net, tmp_path / "broken.safetensors")


def test_pictures_of_unknown_quality_get_private_variants_of_kinds_found_without_labels(tmp_path):
    words = "--limit 200 --batch 20 --epochs 1 --families clean --hold-out none --bits 8,4 --workers 1"
    private = "--private-epochs 1 --kinds 2 --test-pictures 40"
    run_training(parse([*words.split(), *private.split(), "--out", str(tmp_path)]))
    evidence = Evidence.read(tmp_path)
    assert set(evidence.kinds.tolist()) == {0, 1} and not evidence.families.any()
    assert [v.name for v in evidence.variants if v.base] == ["w8a8-q0", "w8a8-q1", "w4a4-q0", "w4a4-q1"]
    assert "private" in evidence.arms and "swap" in (tmp_path / "report.md").read_text().lower()


def test_another_network_can_teach(run, tmp_path):
    """The full-precision network given as teacher changes nothing; another one does."""
    own = run[0] / "full.safetensors"
    torch.manual_seed(1)
    other = Network(architecture("resnet20", (32, 32, 3), 10), {})
    save_weights(other, tmp_path / "other.safetensors")
    words = ["--weights", str(own), "--fp-epochs", "0", "--bits", "4"]
    alone, same, taught = (
        trained(tmp_path / name, *words, *more)[0]
        for name, *more in (
            ("alone",),
            ("same", "--teacher", str(own), "--teacher-arch", "resnet8"),
            ("taught", "--teacher", str(tmp_path / "other.safetensors"), "--teacher-arch", "resnet20"),
        )
    )
    assert alone.keys() == same.keys() == taught.keys()
    assert all(torch.equal(alone[k], same[k]) for k in alone)
    students = [k for k in alone if k.startswith("student.") and k.endswith("conv1.weight")]
    assert students and all(not torch.equal(alone[k], taught[k]) for k in students)
    assert all(torch.equal(alone[k], taught[k]) for k in alone if k.startswith("full_precision."))
    with pytest.raises(ValueError, match="is no checkpoint of resnet20.*--teacher-arch"):
        trained(tmp_path / "no", *words, "--teacher", str(own), "--teacher-arch", "resnet20")
    with pytest.raises(SystemExit):
        parse(["--teacher", str(tmp_path / "missing.th")])
