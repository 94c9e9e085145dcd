"""Kernel rules of ARM, first that applies; which multiply there is depends on the processor."""

from targets import portable
from targets.arm.multiply_add import dot_product, long_multiply
from targets.cpu import assemble

RULES = [long_multiply, *portable.RULES]

__all__ = ["RULES", "assemble", "dot_product"]
