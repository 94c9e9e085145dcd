"""Kernel rules of ARM: which multiply is fast depends on the processor."""

from targets import Target
from targets.arm.bit_serial import bit_serial
from targets.arm.dot_product import dot_product
from targets.arm.epilogue import EPILOGUES
from targets.arm.long_multiply import long_multiply
from targets.arm.outer_product import outer_product
from targets.arm.winograd import winograd_dot_product, winograd_long_multiply
from targets.cpu import portable
from targets.cpu.depthwise import depthwise
from targets.cpu.epilogue import bound
from targets.kernel import Rule


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    if "asimddp" in target.requires:
        own = (winograd_dot_product, dot_product, depthwise)
    else:
        own = (bit_serial, winograd_long_multiply, outer_product, long_multiply, depthwise)
    return [*(bound(rule, EPILOGUES) for rule in own), *portable.rules(EPILOGUES)]
