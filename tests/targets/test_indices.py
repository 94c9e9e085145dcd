"""No kernel is led out of its buffers by data: what it reads from weights and tables decides no place and no loop."""

import subprocess
import sys

import pytest

from runtime.machine import cpu

tvm_ffi = pytest.importorskip("tvm_ffi")
tvm = pytest.importorskip("tvm")

from compile.lowering.lower import lower
from targets import find
from targets.x86 import multiply_add
from tests.support.graphs import OPS, random_graph, resnet_like
from tests.targets.x86.test_kernels_x86 import one_layer

pytestmark = pytest.mark.slow

TARGETS = ("x86:avx2", "x86:avx-vnni", "x86:avx512-vnni", "arm:cortex-a72", "arm:cortex-a76", "cuda:sm_87")
DATA = ("weights", "table")  # parameters of a kernel
CHILDREN = ("a", "b", "args", "value", "base", "vectors", "condition", "true_value", "false_value", "data")


def children(expression) -> list:
    parts = []
    for name in CHILDREN:
        part = getattr(expression, name, None)
        parts += list(part) if isinstance(part, tvm_ffi.Array) else [part]
    return [part for part in parts if isinstance(part, tvm.ir.Expr)]


class Walk:
    """Which variables of a kernel hold data, and which places in buffers or loops depend on it."""

    def __init__(self, kernel):
        self.data = {hash(p) for p in kernel.params if p.name in DATA}
        self.tensors = {hash(p) for p in kernel.params} - self.data  # what is written there are codes, clamped
        self.led = []
        while True:  # a loop may store what an earlier line of it loads
            before, self.led = set(self.data), []
            tvm_ffi.structural_walk(kernel.body, (object, self.visit), order="pre")
            if before == self.data:
                break

    def depends(self, expression) -> bool:
        kind = type(expression).__name__
        if kind == "Min" and str(expression.a.ty) == "uint32" and type(expression.b).__name__ == "IntImm":
            return False  # bounded, see targets/x86/multiply_add.py: at_most
        if kind == "Var":
            return hash(expression) in self.data
        if kind == "TensorLoad":
            return hash(expression.source) in self.data
        return any(self.depends(child) for child in children(expression))

    def visit(self, node) -> None:
        kind = type(node).__name__
        if kind in ("Bind", "DeclBuffer"):
            variable, value = (node.var, node.value) if kind == "Bind" else (node.buffer, node.data)
            self.data |= {hash(variable)} if self.depends(value) else set()
            self.tensors |= {hash(variable)} if hash(value) in self.tensors else set()
        elif kind == "BufferStore":
            if self.depends(node.value):
                self.data |= {hash(node.buffer)} - self.tensors
            self.led += [node] if any(map(self.depends, node.indices)) else []
        elif kind == "TensorLoad":
            self.led += [node] if any(map(self.depends, node.indices)) else []
        elif kind == "For":
            self.led += [node] if self.depends(node.min) or self.depends(node.extent) else []
        elif kind == "While":
            self.led += [node] if self.depends(node.condition) else []


def kernels(graph, target):
    for name, function in lower(graph, find(target)).module.functions.items():
        if "global_symbol" not in function.attrs:
            yield name.name_hint, function


@pytest.mark.parametrize("target", TARGETS)
def test_data_lead_no_kernel(target):
    graphs = [resnet_like(((bits, bits), (bits, 8)), bits) for bits in (2, 4, 8)]
    graphs += [random_graph(seed, ops=(op, op)) for seed, op in enumerate(OPS)]
    graphs += [one_layer(cin, cin, cout, 3, 8, 8) for cin, cout in ((3, 17), (40, 24))]
    for graph in graphs:
        for name, function in kernels(graph, target):
            walk = Walk(function)
            assert not walk.led, f"{target} {name}: {walk.led[0]}"


def test_the_walk_finds_what_leads(monkeypatch):
    """Without its bounds, the split rule takes loops and places from its table."""
    graph = one_layer(16, 16, 32, 3, 8, 8, stride=2)
    monkeypatch.setattr(multiply_add, "at_most", lambda value, limit: value)
    led = [Walk(function).led for name, function in kernels(graph, "x86:avx2") if name.startswith("multiply_add")]
    assert led[0] and not led[1]  # a loop that reads at those places; the other layer is not split


GUARDED = """
import numpy as np
from runtime import abi
from compile.lowering.lower import lower, run_compiled
from targets import find
from tests.support.graphs import pictures
from tests.support.guarded import guarded_buffer
from tests.targets.x86.test_kernels_x86 import in_process, one_layer

abi.aligned_buffer = guarded_buffer
graph = one_layer(16, 16, 32, 3, 8, 8, stride=2)
lowered = lower(graph, find("x86:avx2"))
runner, x, rng = in_process(lowered, find("x86:avx2")), pictures(graph, 1, 0), np.random.default_rng(0)
sound = lowered.table.copy()
for turn in range(200):
    lowered.table[:] = sound
    words = rng.integers(0, sound.size, rng.integers(1, 9))
    lowered.table[words] = rng.choice([-1, 1 << 30, -1 << 31, 55, 56, 4096, 1 << 20], words.size)
    run_compiled(lowered, runner, x)
print("whole")
"""


def test_damaged_tables_stay_inside_their_buffers():
    """Pages behind and before every buffer end the process that touches them."""
    if not {"avx2", "fma"} <= cpu.features():
        pytest.skip("needs a processor with AVX2 to run the code")
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "whole\n", (done.returncode, done.stderr[-2000:])
