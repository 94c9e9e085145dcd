"""Kernel rules of x86, first that applies."""

from targets import portable
from targets.cpu import assemble
from targets.x86.multiply_add import multiply_add

RULES = [multiply_add, *portable.RULES]

__all__ = ["RULES", "assemble"]
