"""Kernel rules of x86."""

from targets import Target, portable
from targets.kernel import Rule
from targets.module import assemble
from targets.x86.multiply_add import dot_product, multiply_add


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    return [dot_product if "avx_vnni" in target.requires else multiply_add, *portable.RULES]


__all__ = ["assemble", "rules"]
