"""64-bit x86 processors with AVX2 (x86-64-v3: Intel since 2013, AMD since 2015)."""

from targets import NO_TBAA, Target

TARGETS = (
    Target(
        name="x86",
        family="x86",
        machine="x86_64",
        requires=("avx2", "fma"),
        tvm={"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3", "cl-opt": NO_TBAA},
    ),
)
