"""Kernel rules of x86."""

from targets import Target
from targets.cpu import portable
from targets.cpu.epilogue import bound
from targets.kernel import Rule
from targets.x86.depthwise import depthwise, depthwise_dot_product
from targets.x86.epilogue import epilogues
from targets.x86.look_up import look_up, wide_look_up
from targets.x86.multiply_add import dot_product, multiply_add, wide_dot_product
from targets.x86.winograd import winograd_dot_product, winograd_dot_product_32, winograd_multiply_add


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    if "avx512_vnni" in target.requires:
        own = (winograd_dot_product_32, wide_look_up, wide_dot_product, depthwise_dot_product)
    elif "avx_vnni" in target.requires:
        own = (winograd_dot_product, wide_look_up, dot_product, depthwise_dot_product)
    else:
        own = (winograd_multiply_add, look_up, multiply_add, depthwise)
    ends = epilogues(target)
    return [*(bound(rule, ends) for rule in own), *portable.rules(ends)]
