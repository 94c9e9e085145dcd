"""Kernel rules of x86."""

from targets import Target, portable
from targets.epilogue import bound
from targets.kernel import Rule
from targets.module import assemble
from targets.x86.epilogue import epilogues
from targets.x86.look_up import look_up, wide_look_up
from targets.x86.multiply_add import dot_product, multiply_add, wide_dot_product

WRITES_ALSO = True  # convolutions and additions write rescaled codes too, from registers


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    ends = epilogues(target)
    if "avx512_vnni" in target.requires:
        dense = (wide_look_up, wide_dot_product)
    elif "avx_vnni" in target.requires:
        dense = (wide_look_up, dot_product)
    else:
        dense = (look_up, multiply_add)
    return [*(bound(rule, ends) for rule in dense), *portable.rules(ends)]


__all__ = ["WRITES_ALSO", "assemble", "rules"]
