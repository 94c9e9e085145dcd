"""Kernel rules of ARM: which multiply is fast depends on the processor."""

from targets import Target, portable
from targets.arm.multiply_add import EPILOGUES, dot_product, long_multiply
from targets.arm.winograd import winograd_dot_product, winograd_long_multiply
from targets.epilogue import bound
from targets.kernel import Rule
from targets.module import assemble

WRITES_ALSO = True  # convolutions and additions write rescaled codes too, from registers


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    dense, winograd = long_multiply, winograd_long_multiply
    if "asimddp" in target.requires:
        dense, winograd = dot_product, winograd_dot_product
    return [bound(winograd, EPILOGUES), bound(dense, EPILOGUES), *portable.rules(EPILOGUES)]


__all__ = ["WRITES_ALSO", "assemble", "rules"]
