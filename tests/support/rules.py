"""Other kernel rules for a family of hardware, while a test runs."""

import importlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from targets import Target
from targets.kernel import Rule


def set_rules(patch: pytest.MonkeyPatch, family: str, change: Callable[[Target, list[Rule]], list[Rule]]) -> None:
    """Makes a family try the rules that `change` makes of a target and its own rules."""
    module = importlib.import_module(f"targets.{family}.family")
    own = module.FAMILY.rules
    patch.setattr(module, "FAMILY", replace(module.FAMILY, rules=lambda target: change(target, own(target))))
