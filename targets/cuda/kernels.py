"""Kernel rules of CUDA: tensor cores for matrix products, plain code of four channels a thread for the rest."""

from functools import partial

import tvm

from targets import Target
from targets.cuda import moves, pools, quads
from targets.cuda.implicit_gemm import implicit_gemm
from targets.cuda.routes import INT4_UNTIL
from targets.kernel import Call, Rule, Sizes
from targets.library import module

# multiprocessors of the largest common GPU of a compute capability: A100, RTX 3090, Jetson AGX Orin, RTX 4090, H100
PROCESSORS = {80: 108, 86: 82, 87: 16, 89: 128, 90: 132}


def assemble(calls: list[Call], sizes: Sizes) -> tvm.IRModule:
    """main on the host; a function whose target has no host of its own is a kernel, which main launches."""
    return module.assemble(calls, sizes, tvm.target.Target({"kind": "cuda", "arch": "sm_80"}))


def rules(target: Target) -> list[Rule]:
    """First that applies; tiles are for the largest GPU that the target has machine code for."""
    processors = max(PROCESSORS[arch] for arch in target.archs)
    containers = (4, 8) if 10 * target.archs[0] < INT4_UNTIL else (8,)
    gemm = partial(implicit_gemm, processors=processors, containers=containers)
    return [
        gemm,
        quads.depthwise,
        quads.conv,
        quads.add,
        quads.mul,
        quads.rescale,
        quads.logits,
        pools.average_pool,
        pools.max_pool,
        moves.picture,
        moves.shortcut,
        moves.gather,
        moves.concat,
        moves.lookup,
    ]
