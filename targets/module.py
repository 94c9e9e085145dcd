"""A network as one TIR module: a private function per distinct kernel, and one public `main` that calls them."""

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T
from tvm_ffi import StructuralKey

from targets.kernel import Call, Sizes

SLACK = 64  # bytes that vector loads may reach past the end of a buffer


def assemble(calls: list[Call], sizes: Sizes, device: tvm.target.Target | None = None) -> tvm.IRModule:
    """main(picture uint8, weights int8, table int32, workspace uint8, logits int32), flat and 64-byte aligned.

    Kernels that came out as the same code (blocks that repeat) share one function. device: what runs the kernels where
    that is not what runs main, which then launches them on the current stream.
    """
    functions: dict[StructuralKey, tvm.ir.GlobalVar] = {}
    kernels, order = {}, []
    for call in calls:
        function = kernel_function(call, device is None)
        if device is not None:
            function = function.with_attr("target", device).with_attr("tirx.noalias", True)
        name = f"{call.kernel.rule.split(',')[0].replace(' ', '_').replace('-', '_')}_{len(functions)}"
        variable = functions.setdefault(StructuralKey(function), tvm.ir.GlobalVar(name))
        kernels.setdefault(variable, function)
        order.append(variable)
    return tvm.IRModule({**kernels, tvm.ir.GlobalVar("main"): _main(calls, order, sizes, device is None)})


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
            buffers = [T.decl_buffer((count,), dtype, data=pointer, align=64)
                       for pointer, (_, dtype, count) in zip(pointers, spans, strict=True)]
            reads = len(step.reads)
            kernel.emit(buffers[:reads], buffers[reads + 2:], buffers[reads], buffers[reads + 1], units)
    return builder.get()


def _main(calls: list[Call], order: list[tvm.ir.GlobalVar], sizes: Sizes, cpu: bool) -> tvm.tirx.PrimFunc:
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True})
            picture = T.arg("picture", T.Buffer((sizes.picture,), "uint8"))
            weights = T.arg("weights", T.Buffer((sizes.weights,), "int8"))
            table = T.arg("table", T.Buffer((sizes.table,), "int32"))
            workspace = T.arg("workspace", T.Buffer((sizes.workspace,), "uint8"))
            logits = T.arg("logits", T.Buffer((sizes.logits,), "int32"))
            for call, variable in zip(calls, order, strict=True):
                arguments = [T.address_of(picture[0] if at is None else workspace[at]) for at in call.reads]
                arguments += [T.address_of(weights[call.weights]), T.address_of(table[call.table])]
                arguments += [T.address_of(logits[0] if at is None else workspace[at]) for at in call.writes]
                if cpu:
                    arguments += [T.int32(0), T.int32(call.kernel.units)]
                T.evaluate(tvm.ir.Call(variable, arguments, ret_ty="void"))
    return builder.get().with_attr("global_symbol", "main")
