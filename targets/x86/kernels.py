"""Kernel rules of x86."""

from targets import Target, portable
from targets.epilogue import Epilogues, bound
from targets.kernel import Rule
from targets.module import assemble
from targets.x86.multiply_add import dot_product, multiply_add
from targets.x86.winograd import winograd_dot_product, winograd_dot_product_32, winograd_multiply_add

WRITES_ALSO = True  # convolutions and additions write rescaled codes too, from registers


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    epilogues = Epilogues()
    dense, winograd = multiply_add, winograd_multiply_add
    if "avx_vnni" in target.requires:
        dense, winograd = dot_product, winograd_dot_product
    if "avx512_vnni" in target.requires:
        dense, winograd = dot_product, winograd_dot_product_32
    return [bound(winograd, epilogues), bound(dense, epilogues), *portable.rules(epilogues)]


__all__ = ["WRITES_ALSO", "assemble", "rules"]
