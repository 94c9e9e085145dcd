"""Kernel rules of x86."""

from targets import Target, portable
from targets.epilogue import bound
from targets.kernel import Rule
from targets.module import assemble
from targets.x86.depthwise import depthwise, depthwise_dot_product
from targets.x86.epilogue import epilogues
from targets.x86.look_up import look_up, wide_look_up
from targets.x86.multiply_add import dot_product, multiply_add

WRITES_ALSO = True  # convolutions and additions write rescaled codes too, from registers


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    ends, vnni = epilogues(target), {"avx_vnni", "avx512_vnni"} & set(target.requires)
    own = (wide_look_up, dot_product, depthwise_dot_product) if vnni else (look_up, multiply_add, depthwise)
    return [*(bound(rule, ends) for rule in own), *portable.rules(ends)]


__all__ = ["WRITES_ALSO", "assemble", "rules"]
