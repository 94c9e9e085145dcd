"""The emitted CUDA C++, run on the CPU: equal to the integer reference, and wrong code is caught."""

import re
import shutil

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from compile.lowering.lower import lower, run_compiled
from targets import find
from targets.cuda import toolchain
from targets.cuda.emulation import host as emulate
from targets.reference import interpreter
from tests.support.graphs import FOREIGN_OPS, OPS, pictures, quantized_to_the_end, random_graph, resnet_like
from tests.support.small_modules import mirror

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "c++", "clang++"))),
        reason="no C++ compiler here to run the CUDA source with; apt install g++",
    ),
]
N = 64


@pytest.fixture(scope="module")
def mirrored() -> str:
    """The source of a kernel with shared memory and one barrier."""
    text = toolchain.source(mirror(N), find("cuda"))
    assert text.count("__syncthreads();") == 1 and "__shared__" in text
    return text


def runner(tmp_path, text: str, seed: int = 0) -> emulate.Runner:
    path = tmp_path / "m.cu"
    path.write_text(text)
    return emulate.Runner(path, seed)


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def run_mirror(run: emulate.Runner) -> tuple[np.ndarray, np.ndarray]:
    x, table = np.arange(N, dtype=np.uint8) * 3, np.arange(N, dtype=np.int32) * 1000
    return run(x, np.zeros(1, np.int8), table, 1, N), table + x[::-1]


def assert_equal(tmp_path, graph, seed, count=4, order=0):
    lowered = lower(graph, find("cuda"))
    x = pictures(graph, count, seed)
    run = runner(tmp_path, toolchain.source(lowered.module, find("cuda")), order)
    np.testing.assert_array_equal(run_compiled(lowered, run, x), interpreter.run(graph, x))


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_equal_the_reference(tmp_path, seed):
    assert_equal(tmp_path, random_graph(seed, tie_free=seed % 2 == 0, extreme=seed == 3), seed, order=seed)


@pytest.mark.parametrize(
    "ops", [OPS[:5], OPS[5:], *zip(FOREIGN_OPS[:5], FOREIGN_OPS[5:], strict=True)], ids=lambda ops: " ".join(ops)
)
def test_every_operator(tmp_path, ops):
    assert_equal(tmp_path, random_graph(11, ops=ops, size=(13, 12)), 11)


@pytest.mark.parametrize("seed", range(2))
def test_codes_from_picture_to_output(tmp_path, seed):
    assert_equal(tmp_path, quantized_to_the_end(seed), seed)


def test_residual_network_of_many_widths(tmp_path):
    assert_equal(tmp_path, resnet_like(((8, 8), (4, 4), (3, 5), (2, 2), (7, 6))), 1)


def test_steps_of_equal_code_share_a_kernel():
    """Blocks repeat in residual networks: deeper ones have more launches, not more kernels."""
    kernels, launches = [], []
    for depth in (2, 4):
        text = toolchain.source(lower(resnet_like(((8, 8),), blocks=(depth, 1, 1)), find("cuda")).module, find("cuda"))
        kernels.append(len(set(re.findall(r"__global__ .* (\w+)\(", text))))
        launches.append(text.count("tvm_cuda_host_launch(::"))
    assert kernels[0] == kernels[1] and launches[1] == launches[0] + 4


@pytest.mark.parametrize("seed", range(3))
def test_shared_memory_and_barriers(tmp_path, mirrored, seed):
    got, expected = run_mirror(runner(tmp_path, mirrored, seed))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_missing_barrier_is_caught(tmp_path, mirrored, seed):
    without = changed(mirrored, "__syncthreads();", "if (threadIdx.x > 1000) __syncthreads();")
    got, expected = run_mirror(runner(tmp_path, without, seed))
    assert (got != expected).any()


def test_a_barrier_that_some_threads_skip_is_caught(tmp_path, mirrored):
    partial = changed(mirrored, "__syncthreads();", "if (threadIdx.x < 7) __syncthreads();")
    with pytest.raises(emulate.EmulationError, match="threads ended while others wait at __syncthreads in kernel"):
        run_mirror(runner(tmp_path, partial))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("picture[", "picture[64 + ", "access at byte .* of the buffer picture of 64 bytes.* in kernel, block"),
        ("picture[", "picture[-4096 + ", "access at byte -.* of the buffer picture of 64 bytes.* in kernel, block"),
        ("logits[", "logits[64 + ", "access at byte .* of the buffer logits of 256 bytes"),
        ("logits[", "logits[-1 + ", "wrote before the buffer logits of 256 bytes"),
        ("logits[", "table[", "access at byte .* of the buffer table .* or a write into an input"),
        ("__syncthreads();", "__syncthreads(); table += 2147483647 + (int)threadIdx.x;", "signed overflow"),
    ],
)
def test_what_a_kernel_must_not_do_is_caught(tmp_path, mirrored, old, new, message):
    begin, end = mirrored.index("{", mirrored.rindex("__global__")), mirrored.index("#include <tvm/ffi/c_api.h>")
    text = mirrored[:begin] + changed(mirrored[begin:end], old, new) + mirrored[end:]
    with pytest.raises(emulate.EmulationError, match=message):
        run_mirror(runner(tmp_path, text))


def test_what_is_not_described_is_refused(tmp_path, mirrored):
    for new in ('asm volatile("bar.sync 0;");', '__asm__ __volatile__("bar.sync 0;");'):
        with pytest.raises(emulate.EmulationError, match="expected no inline assembly, got .*bar.sync"):
            runner(tmp_path, changed(mirrored, "__syncthreads();", new))
    with pytest.raises(emulate.EmulationError, match="does not describe:(.|\n)*__shfl_sync"):
        runner(tmp_path, changed(mirrored, "__syncthreads();", "__shfl_sync(0xffffffff, 1, 0);"))


def test_errors_of_the_host_function_are_shown(tmp_path, mirrored):
    run = runner(tmp_path, mirrored)
    with pytest.raises(emulate.EmulationError, match="main reported (.|\n)*expected 64"):
        run(np.zeros(N - 1, np.uint8), np.zeros(1, np.int8), np.zeros(N, np.int32), 1, N)
    np.testing.assert_array_equal(*run_mirror(run))  # the next call begins anew


def test_too_large_a_launch_is_refused(tmp_path, mirrored):
    run = runner(tmp_path, re.sub(r"blockDim = dim3\(\w+", "blockDim = dim3(1025", mirrored))
    with pytest.raises(emulate.EmulationError, match="CUDA launch: cudaErrorInvalidConfiguration"):
        run_mirror(run)


# all that the host function may ask of CUDA and of tvm_ffi: nothing of it allocates, copies or waits
ASKED = {"cudaGetDevice", "cudaGetLastError", "cudaGetErrorString", "cudaLaunchKernelEx"}
ASKED_OF_FFI = {"TVMFFIEnvGetStream", "TVMFFIErrorSetRaisedFromCStr", "TVMFFIErrorSetRaisedFromCStrParts"}


def test_main_only_launches():
    """So it can be captured in a CUDA graph: of a network with every operator, the calls in the source."""
    text = toolchain.source(lower(random_graph(0, ops=OPS), find("cuda"), 3).module, find("cuda"))
    host = text[text.index("#include <tvm/ffi/c_api.h>") :]
    assert host.count("cudaLaunchKernelEx(") == 1 and host.count("tvm_cuda_host_launch(::") > 5
    assert set(re.findall(r"\b(cuda[A-Z]\w+)\s*\(", host)) == ASKED
    assert set(re.findall(r"\b(TVMFFI\w+)\s*\(", host)) == ASKED_OF_FFI
    assert host.count("TVMFFIEnvGetStream(kDLCUDA, ") == host.count("tvm_cuda_host_launch(::")
    assert "<<<" not in host and not re.search(r"\bcu[A-Z]\w+\s*\(", host)


def test_every_launch_is_on_the_stream_of_the_environment(tmp_path, mirrored):
    """The emulation sets another one for each call."""
    run = runner(tmp_path, mirrored)
    for _ in range(3):
        np.testing.assert_array_equal(*run_mirror(run))
    kept = re.sub(r"static_cast<cudaStream_t>\(TVMFFIEnvGetStream[^;]*;", "0;", mirrored)
    assert kept != mirrored
    with pytest.raises(emulate.EmulationError, match="a launch on another stream than that of tvm_ffi's environment"):
        run_mirror(runner(tmp_path, kept))


@pytest.mark.parametrize(
    "call",
    [
        "cudaDeviceSynchronize()",
        "cudaStreamSynchronize(cuda_stream_0)",
        "cudaMalloc((void**)args, 8)",
        "cudaMemcpy(args, args, 8, cudaMemcpyHostToDevice)",
    ],
)
def test_a_host_function_that_waits_or_allocates_is_refused(tmp_path, mirrored, call):
    with pytest.raises(emulate.EmulationError, match=f"does not describe:(.|\n)*{call.partition('(')[0]}"):
        runner(tmp_path, mirrored.replace("  return 0;\n  } catch", f"  {call};\n  return 0;\n  }} catch"))
