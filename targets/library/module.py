"""A network as one TIR module: a private function per distinct kernel, and public ones that call them in order."""

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T
from tvm_ffi import StructuralKey

from runtime.abi import BUFFERS, SLACK
from targets.kernel import Buffers, Call, Sizes
from targets.library.threads import serve, share


def assemble(calls: list[Call], sizes: Sizes, device: tvm.target.Target | None = None) -> tvm.IRModule:
    """main(picture uint8, weights int8, table int32, workspace uint8, logits int32), flat and 64-byte aligned.

    Kernels that came out as the same code (blocks that repeat) share one function. device: what runs the kernels where
    that is not what runs main, which then launches them on the current stream; elsewhere the module also has `share`
    and `serve` (targets/library/threads.py), which do main's work with several threads.
    """
    functions: dict[StructuralKey, tvm.ir.GlobalVar] = {}
    kernels: dict[tvm.ir.GlobalVar, tvm.tirx.PrimFunc] = {}
    order = []
    for call in calls:
        function = kernel_function(call, device is None)
        if device is not None:
            function = function.with_attr("target", device).with_attr("tirx.noalias", True)
        name = f"{call.kernel.rule.split(',')[0].replace(' ', '_').replace('-', '_')}_{len(functions)}"
        variable = functions.setdefault(StructuralKey(function), tvm.ir.GlobalVar(name))
        kernels.setdefault(variable, function)
        order.append(variable)
    function_of = dict(zip(calls, order, strict=True))
    public = {"main": _main(function_of, sizes, device is None)}
    if device is None:
        invoke = lambda call, buffers, *units: _invoke(call, function_of[call], buffers, units)  # noqa: E731
        public |= {"share": share(_arguments(sizes), calls, invoke), "serve": serve()}
    return tvm.IRModule({**kernels, **{tvm.ir.GlobalVar(name): f for name, f in public.items()}})


def _arguments(sizes: Sizes) -> list[tuple[str, int, str]]:
    """Name, elements and dtype of main's buffers."""
    return [(name, getattr(sizes, name), dtype) for name, dtype in BUFFERS.items()]


def kernel_function(call: Call, cpu: bool) -> tvm.tirx.PrimFunc:
    """A function of raw pointers: what it reads, weights, table, what it writes; on a CPU also which units to do."""
    kernel, step = call.kernel, call.step
    spans = [(f"read{i}", layout.dtype, layout.size + SLACK) for i, layout in enumerate(step.reads)]
    spans += [("weights", "int8", max(1, kernel.weights.size)), ("table", "int32", max(1, kernel.table.size))]
    spans += [(f"write{i}", layout.dtype, layout.size + SLACK) for i, layout in enumerate(step.writes)]
    with IRBuilder() as builder:
        with T.prim_func(private=True, s_tir=True):
            T.func_name("kernel")
            pointers = [T.arg(name, T.handle(dtype)) for name, dtype, _ in spans]
            units = (T.arg("first", T.int32()), T.arg("end", T.int32())) if cpu else (0, kernel.units)
            buffers = [
                T.decl_buffer((count,), dtype, data=pointer, align=64)
                for pointer, (_, dtype, count) in zip(pointers, spans, strict=True)
            ]
            reads = len(step.reads)
            kernel.emit(Buffers(buffers[:reads], buffers[reads + 2 :], buffers[reads], buffers[reads + 1]), units)
    return builder.get()


def _main(calls: dict[Call, tvm.ir.GlobalVar], sizes: Sizes, cpu: bool) -> tvm.tirx.PrimFunc:
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True})
            buffers = [T.arg(name, T.Buffer((size,), dtype)) for name, size, dtype in _arguments(sizes)]
            for call, function in calls.items():
                _invoke(call, function, buffers, (T.int32(0), T.int32(call.kernel.units)) if cpu else ())
    return builder.get().with_attr("global_symbol", "main")


def _invoke(call: Call, function: tvm.ir.GlobalVar, buffers: list, units: tuple) -> None:
    picture, weights, table, workspace, logits = buffers
    arguments = [T.address_of(picture[0] if at is None else workspace[at]) for at in call.reads]
    arguments += [T.address_of(weights[call.weights]), T.address_of(table[call.table])]
    arguments += [T.address_of(logits[0] if at is None else workspace[at]) for at in call.writes]
    T.evaluate(tvm.ir.Call(function, [*arguments, *units], ret_ty="void"))
