"""Reads what training decided and measured about a bundle's variants; builds check a run with the same code."""

from dataclasses import dataclass, field

from runtime.bundle.segments import BITS
from runtime.choice.budgets import Budget, parse_budget
from runtime.choice.escalation import Escalation, parse_escalation
from runtime.choice.selector import Selector, SelectorError
from runtime.fields import BundleError, Fields

MOST_WORK = 1 << 60  # MACs or BitOPs of a picture
OBJECT_OR_NULL = (dict, type(None))


@dataclass(frozen=True)
class Facts:
    """What is known of a variant besides its code.

    bits: layer -> (w_bits, a_bits); macs, bitops: of one picture; cost: relative to 8 bits everywhere; accuracy:
    degradation family -> share in 0..1, empty where nobody measured.
    """

    name: str
    bits: dict[str, tuple[int, int]] = field(hash=False)
    macs: int
    bitops: int
    cost: float
    accuracy: dict[str, float] = field(hash=False)

    @property
    def mean_accuracy(self) -> float | None:
        """Mean over the degradation families, or None where nobody measured."""
        return sum(self.accuracy.values()) / len(self.accuracy) if self.accuracy else None


@dataclass(frozen=True)
class Decisions:
    """What training decided about the variants together.

    selector: None where one variant serves all pictures. budget: mean cost that the run was reported with, None where
    none is known or the bundle is older than this field. escalation: None where no picture runs through two variants.
    """

    labels: tuple[str, ...]
    selector: Selector | None = field(hash=False)
    budget: float | None
    budgets: tuple[Budget, ...]
    escalation: Escalation | None


def parse_decisions(top: Fields, variants: int) -> Decisions:
    """Reads what training decided about that many variants. Raises BundleError for anything else."""
    top.get("selector", OBJECT_OR_NULL, "an object or null")
    return Decisions(
        labels=tuple(top.texts("labels", least=1)),
        budget=_parse_own_budget(top),
        budgets=tuple(parse_budget(entry) for entry in top.objects("budgets")),
        escalation=_parse_escalation(top, variants),
        selector=_parse_selector(top, variants),
    )


def parse_facts(fields: Fields) -> Facts:
    """Reads what is known of a variant besides its code. Raises BundleError for anything else."""
    return Facts(
        name=fields.text("name"),
        bits=fields.mapping("bits", _parse_bits),
        macs=fields.whole("macs", 0, MOST_WORK),
        bitops=fields.whole("bitops", 0, MOST_WORK),
        cost=fields.real("cost", 0),
        accuracy=fields.mapping("accuracy", lambda members, family: members.real(family, 0, 1)),
    )


def require_different(top: Fields, names: list[str]) -> None:
    """Raises BundleError where two variants have the same name."""
    top.require(len(set(names)) == len(names), "variants of different names", names)


def _parse_own_budget(top: Fields) -> float | None:
    if top.data.get("budget") is None:
        return None
    has_table = top.data["selector"] is None or bool(top.objects("budgets"))
    top.require(has_table, "a table of budgets beside a selector and a budget", "an empty one")
    return top.real("budget", 0)


def _parse_escalation(top: Fields, variants: int) -> Escalation | None:
    if top.get("escalation", OBJECT_OR_NULL, "an object or null") is None:
        return None
    top.require(top.data["selector"] is not None, "a selector beside an escalation", None)
    return parse_escalation(top.object("escalation"), variants)


def _parse_selector(top: Fields, variants: int) -> Selector | None:
    if top.data["selector"] is None:
        return None
    fields = top.object("selector")
    try:
        selector = Selector.from_dict(fields.data)
    except SelectorError as error:
        raise BundleError(f"{top.where}: {error}; {top.todo}") from error
    fields.require(selector.variants == variants, f"one among {variants} variants", f"one among {selector.variants}")
    return selector


def _parse_bits(fields: Fields, layer: str) -> tuple[int, int]:
    pair = fields.get(layer, list, "a pair of widths")
    whole = len(pair) == 2 and all(type(b) is int for b in pair)
    # uint8 weights less their zero point have 9 bits
    widths = whole and pair[0] in range(BITS.start, BITS.stop + 1) and pair[1] in BITS
    fields.require(widths, "[w_bits, a_bits] in 2..9 and 2..8", pair)
    w_bits, a_bits = pair
    return w_bits, a_bits
