"""64-bit x86 processors; what tells them apart here is the byte dot product, in 256 or in 512 bits."""

from targets import NO_TBAA, Target

_TVM = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3", "cl-opt": NO_TBAA}

TARGETS = (
    # AVX2: Intel since 2013, AMD since 2015
    Target(
        name="x86:avx2",
        family="x86",
        machine="x86_64",
        requires=("avx2", "fma"),
        tvm=_TVM,
    ),
    # AVX-VNNI: Intel since 2021, AMD since 2024
    Target(
        name="x86:avx-vnni",
        family="x86",
        machine="x86_64",
        requires=("avx2", "fma", "avx_vnni"),
        tvm={**_TVM, "mattr": ["+avxvnni"]},
    ),
    # AVX-512 VNNI: Intel since 2019, AMD since 2022
    Target(
        name="x86:avx512-vnni",
        family="x86",
        machine="x86_64",
        requires=("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
        tvm={**_TVM, "mcpu": "x86-64-v4", "mattr": ["+avx512vnni"]},
    ),
)
