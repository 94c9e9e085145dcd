"""What configurations that a run is given, by --configs or --start, must be like: told before anything is trained."""

import re

from train.bits.configs import Configs, ConfigsError
from train.bits.cost import check_given
from train.kinds.groups import FAMILIES, Groups
from train.settings.settings import Settings

NO_PRIVATE = "1"  # of --kinds


def check(settings: Settings, found: Configs, where: str) -> None:
    """where: what brought them, for messages; costs are the run's. Raises ConfigsError, CostError for the budget."""
    check_given(settings.bits.budget, [(v.name, v.cost) for v in found.variants])
    if not any(v.kinds for v in found.variants):
        return
    if settings.private.kinds not in (FAMILIES, NO_PRIVATE):
        raise ConfigsError(
            f"{where}: brings its kinds of quality along, got --kinds {settings.private.kinds} as well; leave "
            "that out, or give 1 for no private variants"
        )
    _check_groups(found, where)
    if settings.private.private_epochs and settings.private.kinds != NO_PRIVATE:
        _check_names(found, where)


def _check_groups(found: Configs, where: str) -> None:
    try:
        count = len(Groups.from_dict(found.kinds))
    except ValueError as error:
        raise ConfigsError(
            f"{where}: its variants are for kinds of quality, which it does not describe ({error}); bring the file back"
        ) from error
    wrong = [v.name for v in found.variants if any(g >= count for g in v.kinds)]
    if wrong:
        raise ConfigsError(
            f"{where}: expected variants for the {count} kinds of quality it describes, got "
            f"{', '.join(wrong)} for others; bring the file back"
        )


def _check_names(found: Configs, where: str) -> None:
    """Private variants get names of their own."""
    shared = "|".join(re.escape(v.name) for v in found.variants if not v.kinds)
    taken = [v.name for v in found.variants if v.kinds and re.fullmatch(f"({shared})-q[0-9]+", v.name)]
    if taken:
        raise ConfigsError(
            f"{where}: {', '.join(taken)}: --private-epochs makes variants of these names; leave them "
            "out, or give --private-epochs 0 to train these"
        )
