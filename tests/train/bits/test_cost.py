"""What bit configurations cost, and how they are kept on disk."""

import dataclasses
import json
import re
import sys
import types

import pytest
import torch

from runtime.choice.budgets import rounded_up
from tests.support.searches import ARCH, LAYERS, WIDTHS, bitops_table, chance
from train.bits import configs
from train.bits.configs import Configs, ConfigsError, Configuration, distinct, pareto_front
from train.bits.cost import CostError, CostTable, bitops, layer_cost, relative, size
from train.network.relaxed import one_hot
from train.phases.find_bits import BitSource, variant_bits
from train.search.policy import Policy, log_probability
from train.settings.command_line import parse
from train.settings.settings import Settings


@pytest.fixture(scope="module")
def table() -> CostTable:
    return bitops_table()


def test_table_and_network_agree_on_the_cost(table):
    for cost in (bitops, size):
        some = CostTable.of(cost, ARCH, WIDTHS)
        for seed in range(3):
            indices = torch.randint(4, (LAYERS, 2), generator=chance(seed))
            config = some.config(indices)
            assert float(some.of_indices(indices)) == pytest.approx(relative(cost, ARCH, config), rel=1e-12)
            assert torch.equal(some.indices(config), indices)
    assert relative(bitops, ARCH, variant_bits(ARCH, 8, 8)) == 1.0
    ends = sum(layer.macs for layer in (ARCH.stem, ARCH.classifier)) / sum(layer.macs for layer in ARCH.layers)
    assert relative(bitops, ARCH, variant_bits(ARCH, 4, 2)) == pytest.approx(ends + (1 - ends) / 8, rel=1e-12)
    assert relative(size, ARCH, variant_bits(ARCH, 4, 8)) == relative(size, ARCH, variant_bits(ARCH, 4, 2))


def test_expected_cost_is_the_mean_over_drawn_configurations(table):
    p = torch.softmax(torch.randn(LAYERS, 2, 4, generator=chance()).double(), -1)
    drawn = torch.multinomial(p.flatten(0, 1), 20000, True, generator=chance(1)).T.reshape(-1, LAYERS, 2)
    costs = table.of_indices(drawn)
    assert abs(float(costs.mean() - table.expected(p))) < 5 * float(costs.std()) / len(costs) ** 0.5
    assert torch.allclose(table.expected(one_hot(drawn[:9], 4).double()), costs[:9], rtol=1e-12, atol=0)


def test_gradients_of_cost_and_policy_are_right(table):
    policy = Policy(LAYERS, WIDTHS, 3).double()
    q = torch.randn(2, 3, generator=chance(), dtype=torch.float64)
    with torch.no_grad():
        policy.v.normal_(0, 0.5, generator=chance(1))
    drawn = torch.randint(4, (LAYERS, 2), generator=chance(2))
    parameters = [policy.u, policy.v, policy.t]

    def both(*values):
        log_p = torch.func.functional_call(policy, dict(zip(("u", "v", "t"), values, strict=True)), (q,))
        return table.expected(log_p.exp()).sum(), log_probability(log_p[0], drawn)

    assert torch.autograd.gradcheck(both, parameters)


def test_a_budget_out_of_reach_is_refused_with_what_can_be_reached(table):
    table.check(table.least())
    assert float(table.of_indices(table.cheapest())) == pytest.approx(table.least())
    least = rounded_up(table.least())
    with pytest.raises(CostError, match=f"--budget 0.05: the least that widths 2, 3, 4, 8.*{least}"):
        table.check(0.05)
    with pytest.raises(CostError, match="--budget 0.05"):
        BitSource.of(Settings.of(method="dqmq", budget=0.05), ARCH)


@pytest.mark.parametrize("a_bits", [None, 2, 8])
def test_the_cheapest_and_the_first_within_a_budget(table, a_bits):
    rough = torch.rand(table.table.shape, generator=chance(), dtype=torch.float64)
    some = dataclasses.replace(table, table=rough)  # fewer bits may cost more
    a = slice(None) if a_bits is None else WIDTHS.index(a_bits)
    assert some.least(a_bits) == pytest.approx(some.rest + float(rough[:, :, a].reshape(LAYERS, -1).amin(1).sum()))
    cheapest = some.cheapest(a_bits)
    assert a_bits is None or bool((cheapest[:, 1] == a).all())
    tried = torch.randint(4, (50, LAYERS, 2), generator=chance(1))
    costs = some.of_indices(tried)
    budget = float(costs.median())
    assert torch.equal(some.first_within(budget, tried, a_bits), tried[int((costs <= budget).nonzero()[0])])
    assert torch.equal(some.first_within(float(costs.min()) * 0.999, tried, a_bits), cheapest)


def test_a_budget_that_a_refusal_names_is_kept(table):
    """What a refusal names, typed as it stands, is not refused."""
    with pytest.raises(CostError) as refused:
        table.check(0.01)
    least = re.search(r"is ([0-9.]+) of the cost", str(refused.value)).group(1)
    table.check(float(least))
    with pytest.raises(CostError, match="w2a2, costs") as refused:
        BitSource.of(Settings.of(budget=0.01, bits="8,2"), ARCH)
    least = re.search(r"costs ([0-9.]+) of the cost", str(refused.value)).group(1)
    assert BitSource.of(Settings.of(budget=float(least), bits="8,2"), ARCH).configs is not None


def test_latency_is_read_from_the_target_s_table(monkeypatch):
    asked = []

    def load(target):
        if target != "x86:avx2":
            raise ValueError(f"{target}: expected a table of costs, found none")
        return types.SimpleNamespace(layer=lambda shape, bits: asked.append((shape, bits)) or (3.0, "measured"))

    shapes = types.SimpleNamespace(Shape=lambda *a, **k: (*a, *k.values()))
    monkeypatch.setitem(sys.modules, "targets.costs.table", types.SimpleNamespace(load=load, CostsError=KeyError))
    monkeypatch.setitem(sys.modules, "targets.costs.shapes", shapes)
    cost = layer_cost("latency", "x86")
    assert cost(ARCH.blocks[1].conv2, 4, 2) == 3.0
    assert asked == [(("conv", (3, 3), (1, 1), (4, 4, 32), (4, 4, 32), True, (1,)), "w4a2")]
    with pytest.raises(CostError, match="--cost latency --target arm: arm:cortex-a72: expected a table.*--cost bitops"):
        layer_cost("latency", "arm")


def test_widths_grow_where_that_is_free(table):
    indices = torch.randint(4, (LAYERS, 2), generator=chance())
    assert torch.equal(table.widened(indices), indices)  # BitOPs: no width is free
    steps = table.table.clone()
    steps[:, :2, :2] = steps[:, :1, :1]  # 3 bits as fast as 2
    some = dataclasses.replace(table, table=steps)
    narrow = torch.zeros(LAYERS, 2, dtype=torch.int64)
    assert torch.equal(some.widened(narrow), narrow + 1)
    assert float(some.of_indices(narrow + 1)) == float(some.of_indices(narrow))


def test_a_budget_below_all_given_variants_is_refused(tmp_path):
    cost = relative(bitops, ARCH, variant_bits(ARCH, 4, 4))
    wide = configuration("wide", 1.0, None, variant_bits(ARCH, 8, 8))
    path = Configs({}, (configuration("narrow", 0.1, None), wide)).write(tmp_path)
    for options, name in (({"bits": "8,4"}, "w4a4"), ({"configs": str(path)}, "narrow")):
        assert BitSource.of(Settings.of(budget=cost, **options), ARCH).configs is not None
        message = f"--budget 0.2: the cheapest variant given, {name}, costs {rounded_up(cost)} of"
        with pytest.raises(CostError, match=message):
            BitSource.of(Settings.of(budget=0.2, **options), ARCH)
    assert BitSource.of(Settings.of(budget=0.2, bits="8"), ARCH).configs is not None  # one alone has no choice to make


def configuration(name, cost, loss, bits=None) -> Configuration:
    return Configuration(name, bits or variant_bits(ARCH, 4, 4), cost, "ilp", loss=loss)


def test_configurations_come_back_from_their_file(tmp_path):
    names = tuple(layer.name for layer in ARCH.layers)
    judged = (
        configuration("a", 0.2, 1.0),
        configuration("b", 0.3, 1.1),
        configuration("c", 0.4, 0.5, variant_bits(ARCH, 8, 4)),
    )
    assert [v.name for v in pareto_front(judged)] == ["a", "c"]
    assert [v.name for v in distinct((judged[0], dataclasses.replace(judged[2], name="a"), judged[1]))] == ["a", "a-2"]
    written = Configs({"arch": "resnet8"}, judged[:1], judged)
    path = written.write(tmp_path)
    assert configs.read(path) == written
    assert configs.load(str(path), names).variants == judged[:1]
    assert configs.load(f"{path}:c,b", names).variants == (judged[2], judged[1])
    assert [v.name for v in configs.load(f"{path}:c+{path}:b", names).variants] == ["c", "b"]
    settings = parse(["--configs", f"{path}:a", "--cost", "size", "--arch", "resnet8"])
    priced = BitSource.of(settings, ARCH).configs  # files of several costs may be given together
    assert priced.about == settings.costs
    assert [v.cost for v in priced.variants] == [relative(size, ARCH, judged[0].bits)]
    for text, words in (
        (f"{path}:d", "no configuration d; it has a, b, c"),
        (f"{path}:a+{path}:a", "different names"),
        (f"{tmp_path}/no.json", "give the configs.json of a run"),
    ):
        with pytest.raises(ConfigsError, match=words):
            configs.load(text, names)
    for text in ("+", f"{path}:", f"{path}:c,", f"{path}:c+"):
        with pytest.raises(ConfigsError, match=r"--configs .*: expected FILE, FILE:name,name, or such joined by \+"):
            configs.load(text, names)
    with pytest.raises(ConfigsError, match="--arch it was found for"):
        configs.load(str(path), names[:-1])


@pytest.mark.parametrize(
    "change, message",
    [
        *(
            ({"bits": {"conv1": pair}}, "conv1: expected two widths from 2 to 8")
            for pair in ([8, 9], [1, 8], [8, 8.0], [8, "8"], [True, 8], [8], 8, None)
        ),
        *(({"bits": bits}, "expected bits as an object of layers") for bits in ([], None, "8")),
        *(({"name": name}, "name: expected letters") for name in ("", " ", "a\n", "../a", "a.b", "full", 3, None)),
        ({"base": "none"}, "is the base none of a"),
        ({"base": None}, "expected texts as method and base"),
        ({"cost": "1"}, "expected numbers as cost and loss"),
        ({"loss": []}, "expected numbers as cost and loss"),
        ({"groups": 1}, "expected numbers of quality kinds as groups"),
        ({"groups": [-1]}, "expected numbers of quality kinds as groups"),
        ({"more": 1}, "more"),
    ],
)
def test_configurations_of_no_search_are_refused(tmp_path, change, message):
    path = Configs({}, (Configuration("a", {"conv1": (8, 8)}, 1.0, "fixed"),)).write(tmp_path)
    content = json.loads(path.read_text())
    content["variants"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigsError, match=f"configs.json: not a list of configurations .*{message}.*; search anew"):
        configs.read(path)


@pytest.mark.parametrize("entry", [None, 3, [], "a", {}])
def test_what_is_no_configuration_is_refused(entry):
    with pytest.raises(ConfigsError, match="not a list of configurations"):
        Configs.from_dict({"format": 1, "variants": [entry], "pareto": [], "groups": None}, "here")
