"""Time of one picture, one thread: every variant of a bundle beside onnxruntime, interleaved in one process.

    python -m benchmarks.latency bundles/a --calls 300 --json latency.json

onnxruntime runs the same network in float32, and quantized by its own tool (QDQ, per channel, calibrated on the golden
pictures) with signed and with unsigned weights. "exact" says whether an engine's fast answers are those of its own
unoptimized run (for bitgrade: of the integer reference).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime import quantization
from rich.console import Console
from rich.table import Table

from benchmarks.records import write_records
from runtime import Bundle, open_bundle
from runtime.bundle import newest_bundle
from runtime.library import Loaded

FAST, PLAIN = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
TOLERANCE = 1e-3  # of the largest logit: float32 sums in another order, far below a quantization step


def float_network(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 network inside a QDQ file of ours: weights dequantized, activations never quantized, float input."""
    constants = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}
    alias, nodes, weights, picture = {}, [], [], None
    for node in model.graph.node:
        source = alias.get(node.input[0], node.input[0])
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights.append(numpy_helper.from_array(_dequantized(node, constants), node.output[0]))
        elif node.op_type in ("Transpose", "Cast") or (node.op_type == "DequantizeLinear" and picture is None):
            alias[node.output[0]] = source
            picture = node.output[0] if node.op_type == "DequantizeLinear" else picture
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            alias[node.output[0]] = source
        elif node.op_type == "Clip" and source != node.input[0] and node.input[0] in alias:
            alias[node.output[0]] = source  # the clamp of codes in a container that is too wide
        else:
            nodes.append(node)
            nodes[-1].input[:] = [alias.get(name, name) for name in node.input]
    used = {name for node in nodes for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used] + weights
    _, h, w, c = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    entry = helper.make_tensor_value_info(model.graph.input[0].name, onnx.TensorProto.FLOAT, [1, c, h, w])
    graph = helper.make_graph(nodes, "float", [entry], list(model.graph.output), kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _dequantized(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> np.ndarray:
    codes, scale = constants[node.input[0]], constants[node.input[1]]
    return (codes * scale.reshape(scale.shape + (1,) * (codes.ndim - scale.ndim))).astype(np.float32)


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self, name: str, pictures: np.ndarray):
        self.rows = iter([{name: p[None]} for p in pictures])

    def get_next(self):
        return next(self.rows, None)


def session(path: Path, level) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def peers(bundle: Bundle, folder: Path) -> dict[str, Path]:
    """bits -> file: the float32 network of the bundle's first variant, and onnxruntime's own quantizations of it."""
    variant = bundle.variants[0]
    model = float_network(onnx.load(bundle.path(variant.onnx)))
    onnx.checker.check_model(model)
    files = {"fp32": folder / "fp32.onnx"}
    onnx.save(model, files["fp32"])
    name, pictures = model.graph.input[0].name, as_floats(bundle, bundle.golden()[0])
    for bits, kind in (("int8-u8s8", quantization.QuantType.QInt8), ("int8-u8u8", quantization.QuantType.QUInt8)):
        files[bits] = folder / f"{bits}.onnx"
        quantization.quantize_static(files["fp32"], files[bits], _Calibration(name, pictures), per_channel=True,
                                     activation_type=quantization.QuantType.QUInt8, weight_type=kind,
                                     quant_format=quantization.QuantFormat.QDQ)
    return files


def as_floats(bundle: Bundle, pictures: np.ndarray) -> np.ndarray:
    """float32 [N, C, H, W]: what the first DequantizeLinear of our files makes of pictures uint8 [N, H, W, C]."""
    model = onnx.load(bundle.path(bundle.variants[0].onnx))
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in constants)
    scale, zero = (constants[name].astype(np.float32) for name in first.input[1:3])
    return np.ascontiguousarray(((pictures - zero) * scale).transpose(0, 3, 1, 2), np.float32)


def contenders(bundle: Bundle, folder: Path) -> list[tuple[dict, Callable[[], None]]]:
    """(record without time, one call) of each variant and each peer."""
    (images, logits), network, found = bundle.golden(), bundle.manifest.name, []
    loaded = Loaded(bundle, bundle.variants)
    picture = images[0]
    for v in bundle.variants:
        got = np.stack([loaded.run(v.name, p) for p in images])
        exact = bool((got == logits[v.name]).all())
        record = {"network": network, "engine": "bitgrade", "bits": v.name, "threads": 1, "exact": exact}
        found.append((record, lambda name=v.name: loaded.run(name, picture)))
    floats = as_floats(bundle, images)
    for bits, path in peers(bundle, folder).items():
        fast, plain = session(path, FAST), session(path, PLAIN)
        name = fast.get_inputs()[0].name
        a, b = (np.concatenate([s.run(None, {name: x[None]})[0] for x in floats]) for s in (fast, plain))
        exact = bool(np.abs(a - b).max() <= TOLERANCE * np.abs(b).max())
        record = {"network": network, "engine": "onnxruntime", "bits": bits, "threads": 1, "exact": exact}
        found.append((record, lambda s=fast, n=name: s.run(None, {n: floats[:1]})))
    return found


def measure(found: list[tuple[dict, Callable[[], None]]], calls: int) -> list[dict]:
    """Records with "ms", the least of `calls` calls; one call of each in turn, so that all meet the same noise."""
    least = [float("inf")] * len(found)
    for _ in range(calls):
        for k, (_, call) in enumerate(found):
            began = time.perf_counter()
            call()
            least[k] = min(least[k], time.perf_counter() - began)
    return [{**record, "ms": seconds * 1e3} for (record, _), seconds in zip(found, least, strict=True)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="its folder; left out: the newest under ./bundles")
    parser.add_argument("--calls", type=int, default=300, help="of each, interleaved (default 300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    args = parser.parse_args(argv)
    try:
        bundle = open_bundle(args.bundle or newest_bundle())
        with tempfile.TemporaryDirectory() as folder:
            records = measure(contenders(bundle, Path(folder)), max(1, args.calls))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        write_records(args.json, records)
    best = min(r["ms"] for r in records if r["engine"] == "onnxruntime" and r["bits"] != "fp32")
    title = f"{bundle.folder}, 1 thread, least of {args.calls} interleaved calls"
    table = Table("engine", "bits", "ms", "of the best int8 peer", "exact", title=title, title_justify="left")
    for r in records:
        table.add_row(r["engine"], r["bits"], f"{r['ms']:.3f}", f"{r['ms'] / best:.2f}", "yes" if r["exact"] else "no")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
