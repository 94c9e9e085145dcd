"""Kernel rules of ARM: which multiply is fast depends on the processor."""

from targets import Target, portable
from targets.arm.bit_serial import bit_serial
from targets.arm.dot_product import dot_product
from targets.arm.epilogue import EPILOGUES
from targets.arm.long_multiply import long_multiply
from targets.depthwise import depthwise
from targets.epilogue import bound
from targets.kernel import Rule
from targets.module import assemble

WRITES_ALSO = True  # convolutions and additions write rescaled codes too, from registers


def rules(target: Target) -> list[Rule]:
    """First that applies."""
    dense = (dot_product,) if "asimddp" in target.requires else (bit_serial, long_multiply)
    return [*(bound(rule, EPILOGUES) for rule in (*dense, depthwise)), *portable.rules(EPILOGUES)]


__all__ = ["WRITES_ALSO", "assemble", "rules"]
