"""Checks bit configurations that come from --configs or --start, before any training."""

import re

from train.bits.configs import Configs, ConfigsError
from train.bits.cost import check_given
from train.kinds.finding import BY_FAMILY, NO_PRIVATE
from train.kinds.kinds import Kinds
from train.settings.settings import Settings


def check_configs(settings: Settings, configs: Configs, where: str) -> None:
    """Raises ConfigsError for configurations that cannot be trained, CostError where none keeps the budget.

    where: what brought them, for messages. Their costs are already those of the settings.
    """
    check_given(settings.bits.budget, [(v.name, v.cost) for v in configs.variants])
    if not any(v.kinds for v in configs.variants):
        return
    if settings.private.kinds not in (BY_FAMILY, NO_PRIVATE):
        raise ConfigsError(
            f"{where}: brings its kinds of quality along, got --kinds {settings.private.kinds} as well; leave that "
            "out, or give 1 for no private variants"
        )
    _check_kinds(configs, where)
    if settings.private.private_epochs and settings.private.kinds != NO_PRIVATE:
        _check_names(configs, where)


def _check_kinds(configs: Configs, where: str) -> None:
    """Raises ConfigsError unless the kinds that variants are for are described."""
    try:
        count = len(Kinds.from_dict(configs.kinds or {}))
    except ValueError as error:
        raise ConfigsError(
            f"{where}: its variants are for kinds of quality, which it does not describe ({error}); bring the file back"
        ) from error
    wrong = [v.name for v in configs.variants if any(kind >= count for kind in v.kinds)]
    if wrong:
        raise ConfigsError(
            f"{where}: expected variants for the {count} kinds of quality it describes, got {', '.join(wrong)} for "
            "others; bring the file back"
        )


def _check_names(configs: Configs, where: str) -> None:
    """Raises ConfigsError for variants whose names private ones would get."""
    shared = "|".join(re.escape(v.name) for v in configs.variants if not v.kinds)
    taken = [v.name for v in configs.variants if v.kinds and re.fullmatch(f"({shared})-q[0-9]+", v.name)]
    if taken:
        raise ConfigsError(
            f"{where}: {', '.join(taken)}: --private-epochs makes variants of these names; leave them out, or give "
            "--private-epochs 0 to train these"
        )
