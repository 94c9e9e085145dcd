"""Kernel rules of x86."""

from targets import Target, portable
from targets.kernel import Rule
from targets.module import assemble
from targets.x86.multiply_add import multiply_add


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    return [multiply_add, *portable.RULES]


__all__ = ["assemble", "rules"]
