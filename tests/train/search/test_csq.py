"""CSQ: gates, budget, what the variants start from, and whole searches from the teacher to the ONNX file."""

import copy
import json

import numpy as np
import pytest
import torch

from compile.qdq.exporter import to_onnx
from compile.qdq.importer import load as load_onnx
from targets.reference import interpreter
from tests.support.searches import ARCH, LAYERS, chance
from tests.train.network.test_planes import WIDTHS, weights_by_hand
from tests.train.search.test_search import SMALL, Killed
from train.bits import configs
from train.bits.cost import CostError, CostTable, bitops, latency, size
from train.data.datasets import load, spread, thin
from train.data.views import evaluation_views
from train.evidence.metrics import MetricsRecord
from train.finish import finish
from train.integers.lowering import lower
from train.learn import learn
from train.loop import checkpoint
from train.loop.phase import train
from train.network.architectures import architecture, open_layers
from train.network.network import Network, key
from train.network.planes import Planes
from train.network.relaxed import RELAXED, RelaxedNetwork
from train.report.exact_bits import exact_bits
from train.search import csq
from train.search.csq import Depths, budget_loss, exact, mixture, open_variants, start, temperatures
from train.search.fracbits import uniform_width
from train.settings.command_line import parse


@pytest.fixture(scope="module")
def table() -> CostTable:
    return CostTable.of(size, ARCH, WIDTHS)


def tiny(widths=WIDTHS, fitted=1, seed=0):
    """(teacher, open network of bit planes, pictures)."""
    torch.manual_seed(seed)
    teacher, pictures = Network(ARCH, {}), torch.randint(256, (64, 8, 8, 3), generator=chance(), dtype=torch.uint8)
    net = RelaxedNetwork(ARCH, widths, planes=fitted, one_input=True)
    net.inherit(teacher)
    net.calibrate(pictures)
    return teacher, net.train(), pictures


def moved(net: RelaxedNetwork, by: float = 0.3) -> None:
    """Digits as training leaves them: some turned over, P and M both on among them, none near 0."""
    with torch.no_grad():
        for per_variant in open_variants(net):
            for logits in (per_variant.w.positive, per_variant.w.negative):
                logits.add_(by * torch.randn(logits.shape, generator=chance(5)))
                logits.copy_(torch.where(logits.abs() < 0.1, 0.1 * torch.sign(logits) + 1e-3, logits))


def test_first_network_is_close_to_the_teacher_of_learned_steps():
    """Soft at temperature 1, gates included, the first outputs are nearer to full precision than exact ones are."""
    teacher, net, pictures = tiny(fitted=2)
    depths = Depths(LAYERS, WIDTHS, 4.0)
    with torch.no_grad():
        teacher.train()
        wanted = teacher(pictures)
        soft = net(pictures, mixture(depths(1.0), 6, 1.0))
        hard = net(pictures, exact(torch.tensor([[2, 6]] * LAYERS), net))
    error = [float((out - wanted).square().mean() / wanted.var()) for out in (soft, hard)]
    assert error[0] < 0.25 and error[1] < 0.5


def test_gates_take_the_leading_planes_alone():
    for widths in (WIDTHS, (2, 4, 8)):
        planes, depths = Planes(widths, (1, 1, 1, 1), 0), Depths(3, widths, 2.0)
        with torch.no_grad():
            depths.depth.copy_(torch.tensor([1.0, 3.2, 7.0]))
        for beta in (1.0, 20.0, 1e4):
            shares = depths(beta)
            assert torch.allclose(shares.sum(-1), torch.ones(3)) and bool((shares >= 0).all())
            gates = torch.stack([planes.gates(row) for row in shares]).detach()
            assert bool((gates.diff(dim=1) <= 1e-6).all()) and float(gates.max()) <= 1 + 1e-6
        counts = gates.round().sum(1) + 1
        assert counts.tolist() == [float(min(widths, key=lambda b: abs(b - d - 1))) for d in depths.depth.tolist()]
        assert torch.equal(gates, gates.round())


def test_constants_are_not_trained():
    planes = Planes(WIDTHS, (2, 1, 1, 1), 0)
    assert {n for n, _ in planes.named_parameters()} == {"positive", "negative", "log_scale"}
    assert {n for n, _ in planes.named_buffers()} == {"units", "within"}
    assert float(planes.units.sum()) == pytest.approx(1, abs=1e-6)
    depths = Depths(2, WIDTHS, 4.0)
    assert [n for n, _ in depths.named_parameters()] == ["depth"]
    _, net, pictures = tiny()
    before = [per_variant.w.units.clone() for per_variant in open_variants(net)]
    trained = [p for per_variant in open_variants(net) for p in per_variant.w.parameters()]
    optimizer = torch.optim.SGD(trained, 1.0)
    net(pictures, mixture(Depths(LAYERS, WIDTHS, 4.0)(2.0), 6, 2.0)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(a, per_variant.w.units) for a, per_variant in zip(before, open_variants(net), strict=True))


def test_every_plane_and_depth_learns_in_every_open_layer():
    """Shortcuts too; and no activation is left at full precision."""
    _, net, pictures = tiny()
    depths = Depths(LAYERS, WIDTHS, 4.0)
    net(pictures, mixture(depths(1.0), 2, 1.0)).square().sum().backward()
    assert bool((depths.depth.grad.abs() > 0).all()) and len(open_layers(ARCH)) == LAYERS
    shortcuts = [block.shortcut for block in ARCH.blocks]
    for layer, per_variant in zip(open_layers(ARCH), open_variants(net), strict=True):
        assert bool((per_variant.w.positive.grad.abs().flatten(1).sum(1) > 0).all())
        learning = [k for k, q in enumerate(per_variant.a.quantizers) if q is not None and q.log_step.grad is not None]
        assert learning == ([] if layer in shortcuts else [2])  # a shortcut reads its block's codes


@pytest.mark.parametrize("cost", [size, bitops])
def test_budget_counts_the_sign_and_every_layer_by_its_size(cost):
    """Against the cost summed by hand; a layer's share of the gradient is its share of the weights (or operations)."""
    prices, depths = CostTable.of(cost, ARCH, WIDTHS), Depths(LAYERS, WIDTHS, 5.0)
    with torch.no_grad():
        depths.depth.copy_(torch.arange(LAYERS) % 7 + 1.0)
    shares = depths(1e4)
    a = torch.eye(len(WIDTHS))[2].expand_as(shares)
    bits = dict(zip((la.name for la in open_layers(ARCH)), (depths.depth + 1).tolist(), strict=True))
    whole = sum(cost(la, 8, 8) for la in ARCH.layers)
    wanted = sum(cost(la, bits.get(la.name, 8), 4 if la.name in bits else 8) for la in ARCH.layers) / whole
    assert float(prices.expected(torch.stack([shares, a], 1)).detach()) == pytest.approx(wanted, rel=1e-6)
    depths = Depths(LAYERS, WIDTHS, 5.0)
    prices.expected(torch.stack([depths(1.0), a], 1)).backward()
    unit = torch.tensor([cost(la, 3, 4) - cost(la, 2, 4) for la in open_layers(ARCH)])
    assert torch.allclose(depths.depth.grad / depths.depth.grad.sum(), unit / unit.sum(), rtol=1e-4)


def test_depths_shrink_above_the_budget_and_grow_below_it(table):
    for budget, sign in ((0.4, 1), (0.9, -1)):
        depths = Depths(LAYERS, WIDTHS, 5.0)
        shares = depths(1.0)
        a = torch.eye(len(WIDTHS))[6].expand_as(shares)
        budget_loss(table.expected(torch.stack([shares, a], 1)), budget).backward()
        assert bool((sign * depths.depth.grad > 0).all())


def test_temperatures_rise_to_their_ends():
    assert temperatures(0.0) == (1.0, 1.0)
    assert temperatures(0.45) == pytest.approx((200**0.5, 20**0.5))
    assert temperatures(0.9) == temperatures(1.0) == (200.0, 20.0)


def test_rounded_depths_keep_the_budget_and_their_order(table):
    depths = Depths(LAYERS, WIDTHS, 4.0)
    with torch.no_grad():
        depths.depth.uniform_(1, 7, generator=chance())
    before = None
    for budget in (0.35, 0.5, 0.7, 1.0 + 1e-9):
        indices = depths.round(table, 6, budget)
        assert float(table.of_indices(indices)) <= budget and bool((indices[:, 1] == 6).all())
        order = depths.depth.argsort()
        assert bool((indices[order, 0].diff() >= 0).all()) and (before is None or bool((indices >= before).all()))
        before = indices
    middle = float(table.of_indices(torch.tensor([[2, 6]] * LAYERS)))
    assert uniform_width(table, middle, 8) == pytest.approx(4, abs=1e-4)
    with pytest.raises(CostError, match="with 8-bit activations is"):
        CostTable.of(bitops, ARCH, WIDTHS).check(0.2, 8)


def test_rounded_depths_keep_a_budget_of_time_where_fewer_bits_cost_more():
    """On the table of the Cortex-A72 no offset common to all depths keeps some budgets that the table can keep."""
    arch = architecture("resnet20", (32, 32, 3), 10)
    table = CostTable.of(latency("arm"), arch, WIDTHS)
    layers = len(open_layers(arch))
    budgets = torch.linspace(table.least(4) + 1e-4, 1.0, 300).tolist()
    depths = Depths(layers, WIDTHS, 4.0)
    assert all(float(table.of_indices(depths.round(table, WIDTHS.index(4), b))) <= b * (1 + 1e-9) for b in budgets)


def test_variants_start_as_the_exact_network():
    """The one found computes the same logits; a wider one has the same weights, a narrower one rounds them."""
    teacher, net, pictures = tiny(fitted=2)
    moved(net)
    found, table = torch.tensor([[k % 3 + 1, 2] for k in range(LAYERS)]), CostTable.of(size, ARCH, WIDTHS)
    shifts = {"same": 0, "wider": 2, "narrower": -1}
    student = Network(ARCH, {n: table.config(found + torch.tensor([by, 0])) for n, by in shifts.items()})
    student.inherit(teacher)
    start(net, found, student, pictures)
    student.train()
    with torch.no_grad():
        wanted = net(pictures, exact(found, net))
        came = {name: student(pictures, name) for name in shifts}
    assert torch.equal(came["same"], wanted)  # to the last bit: steps are equal, not only near
    assert float((came["wider"] - wanted).abs().max()) < 0.1 * float((came["narrower"] - wanted).abs().max())
    for position, layer in enumerate(open_layers(ARCH)):
        conv, planes = student.convs[key(layer)], net.convs[key(layer)].variants[RELAXED].w
        codes, _ = weights_by_hand(planes, WIDTHS[int(found[position, 0])])
        for name, by in shifts.items():
            q = conv.variants[name].w
            ours = (conv.weight / q.step() + 0.5).floor()
            off = np.abs(ours.detach().numpy() - codes * 2.0**by)
            assert off.max() == 0 if by >= 0 else off.max() <= 0.5
            assert by < 0 or bool((ours >= q.qmin).all() and (ours <= q.qmax).all())


def options(folder, cache, *more) -> list[str]:
    return [
        *SMALL,
        "--method",
        "csq",
        "--widths",
        "2,3,4,5,8",
        "--variants",
        "2",
        "--hold-out",
        "pixelate",
        "--test-pictures",
        "12",
        "--out",
        str(folder),
        "--cache",
        str(cache),
        *more,
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small run: (folder, cache, student, what each `start` got and a copy of the network it left, the phase)."""
    folder, begun, started, phases = tmp_path_factory.mktemp("csq"), [], csq.start, []

    def watched(net, found, student, pictures):
        started(net, found, student, pictures)
        begun.append((net, found, copy.deepcopy(student), pictures))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csq, "start", watched)
        patch.setattr(csq, "train", lambda phase, *more: (phases.append(phase), train(phase, *more)))
        settings = parse(options(folder / "whole", folder))
        data, teacher, student, found, device = learn(settings)
    finish(settings, data, teacher, student, found, device)
    return folder / "whole", folder, student, begun, phases[0]


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_search_killed_and_resumed_ends_the_same(whole, tmp_path, monkeypatch):
    (folder, cache, student, *_), again = whole, tmp_path / "again"
    save, saved = checkpoint.save, []

    def stop(folder, modules, optimizer, names, state):
        save(folder, modules, optimizer, names, state)
        saved.append(state["phase"])
        if saved.count("search") == 7:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(Killed):
        learn(parse(options(again, cache)))
    monkeypatch.setattr(checkpoint, "save", save)
    resumed = learn(parse(options(again, cache, "--resume")))[2]
    for name in (configs.NAME, "metrics.jsonl"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    for name in student.bits:
        ours, theirs = (to_onnx(lower(n, name), {}).SerializeToString(deterministic=True) for n in (student, resumed))
        assert ours == theirs


def test_joint_training_starts_where_the_exact_bits_were(whole):
    """Same logits of the same batch, so the same accuracy; running statistics are those of whole pictures."""
    folder, _, student, begun, _ = whole
    net, found, first, pictures = begun[-1]
    table = CostTable.of(bitops, student.arch, net.widths)
    (name,) = (n for n, bits in first.bits.items() if bits == table.config(found))
    with torch.no_grad():
        wanted = net(pictures, exact(found, net))
        came = copy.deepcopy(first).train()(pictures, name)
    assert first.bits == student.bits and torch.equal(came, wanted)


def test_the_end_is_sharp_and_nothing_decays(whole):
    """Temperatures reach every layer's planes; depths have a rate of their own, and no weight decay."""
    phase = whole[-1]
    net, found, settings = phase.net["open"], phase.found(), phase.search.settings
    soft = phase.soft(1.0)
    assert soft.beta == 200.0 and phase.soft(0.0).beta == 1.0
    for per_variant, k in zip(open_variants(net), found[:, 0].tolist(), strict=True):
        y = torch.eye(len(net.widths))[k]
        with torch.no_grad():
            off = per_variant.w(None, y, y.tolist(), soft.beta) - per_variant.w.hard(k)
            assert float((off.abs() / per_variant.w.log_step(k).exp() > 0.01).float().mean()) < 0.01
    rates = {id(p): group["peak"] for group in phase.optimizer.param_groups for p in group["params"]}
    assert {group["weight_decay"] for group in phase.optimizer.param_groups} == {0}
    assert rates[id(phase.net["depths"].depth)] == settings.bits.policy_lr
    assert all(rates[id(per_variant.w.positive)] == settings.training.lr for per_variant in open_variants(net))


def test_what_a_search_leaves(whole):
    folder, _, student, *_ = whole
    found, inner = configs.read(folder / configs.NAME), {la.name for la in open_layers(student.arch)}
    assert student.bits == found.bits and {v.method for v in found.variants} == {"csq"}
    assert {a for v in found.variants for name, (_, a) in v.bits.items() if name in inner} == {4}
    ends = [r for r in records(folder) if r["phase"] == "search" and "gap" in r]
    assert len(ends) == 4
    assert all(r["gap"] == pytest.approx(100 * (r["accuracy/soft"] - r["accuracy/hard"])) for r in ends)
    assert ends[-1]["hard_cost"] <= 0.5 + 1e-9
    assert {ends[-1][f"w_bits/{name}"] for name in inner} <= {2.0, 3.0, 4.0, 5.0, 8.0}
    assert (folder / "plots" / "widths.png").stat().st_size > 5000
    assert f"{ends[-1]['gap']:+.2f} points lost" in (folder / "report.md").read_text()


@pytest.mark.parametrize("gap,told", [(0.3, "over 0.1 point: planes are not sharp"), (0.1, "not over 0.1 point.")])
def test_report_says_whether_planes_were_sharp_enough(gap, told):
    end = {"accuracy/soft": 0.5 + gap / 100, "accuracy/hard": 0.5, "gap": gap}
    joint = MetricsRecord("joint", 1, {})
    assert told in exact_bits([MetricsRecord("search", 1, end), joint])[2] and exact_bits([joint]) == []


def test_files_compute_what_the_run_says(whole):
    folder, cache, student, *_ = whole
    settings = parse(options(folder, cache))
    data = thin(load("digits", None, cache), settings.data.limit)
    chosen = spread(len(data.test_y), settings.judging.test_pictures)
    views = evaluation_views(data.test_x[chosen], ("clean", "contrast", "pixelate"), 0, cache, 1)
    results = json.loads((folder / "results.json").read_text())
    for variant in json.loads((folder / "run.json").read_text())["variants"]:
        graph = load_onnx(folder / variant["onnx"])
        for (family, severity), pictures in views.items():
            right = int((interpreter.run(graph, np.asarray(pictures)).argmax(1) == data.test_y[chosen]).sum())
            place = ("csq", variant["name"], family, severity)
            (record,) = (r for r in results if (r["arm"], r["variant"], r["family"], r["severity"]) == place)
            assert record["correct"] == right
