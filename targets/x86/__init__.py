"""64-bit x86 processors; what tells them apart here is the byte dot product, in 256 or in 512 bits."""

from targets import NO_TBAA, Target

_TVM = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3", "cl-opt": NO_TBAA}


def _target(name: str, requires: tuple[str, ...], stand_in: Target | None = None, **tvm) -> Target:
    return Target(
        name=name,
        family="x86",
        machine="x86_64",
        requires=("avx2", "fma", *requires),
        tvm={**_TVM, **tvm},
        stand_in=stand_in,
    )


_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")

_LEVELS = (
    # AVX-512 VNNI: Intel since 2019, AMD since 2022
    _target("x86:avx512-vnni", _AVX512, mcpu="x86-64-v4", mattr=["+avx512vnni"]),
    # AVX-VNNI: Intel since 2021, AMD since 2024; AVX-512 VNNI has its instructions in another encoding
    _target(
        "x86:avx-vnni",
        ("avx_vnni",),
        mattr=["+avxvnni"],
        stand_in=_target("x86:avx-vnni encoded for AVX-512", _AVX512, mattr=["+avx512vnni", "+avx512vl"]),
    ),
    # AVX2: Intel since 2013, AMD since 2015
    _target("x86:avx2", ()),
)

TARGETS = (Target(name="x86", family="x86", machine="x86_64", levels=_LEVELS), *_LEVELS)
