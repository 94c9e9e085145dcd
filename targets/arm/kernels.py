"""Kernel rules of ARM: which multiply is fast depends on the processor."""

from targets import Target, portable
from targets.arm.multiply_add import dot_product, long_multiply
from targets.kernel import Rule
from targets.module import assemble


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    return [dot_product if "asimddp" in target.requires else long_multiply, *portable.RULES]


__all__ = ["assemble", "rules"]
