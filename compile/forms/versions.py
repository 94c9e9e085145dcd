"""Versions of a file: the smallest IR and opset that mean the same, and opset 13 for files older than that."""

import onnx
from onnx import helper, inliner

from compile.forms.graph import STANDARD

LEAST_OPSET = 13  # the first with scales per channel
PLAIN_OPSET = 21  # int4 and everything else that quantized files need; below it nothing is gained
PLAIN_IR = 10


def lower_versions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with its functions inlined, and the lowest IR and opset numbers under which it is the same.

    An opset number may fall as far as no operator of the file was redefined in between, so an older onnxruntime takes
    files that a newer onnx has stamped.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    lowered = _raised(model)
    for entry in lowered.opset_import:
        if entry.domain in STANDARD and entry.version > PLAIN_OPSET:
            types, version = _types_in(lowered), entry.version
            entry.version = max([PLAIN_OPSET, *(_since(node, version, types) for node in _nodes(lowered.graph))])
    try:
        needed = helper.find_min_ir_version_for(list(lowered.opset_import), ignore_unknown=True)
    except ValueError:
        return lowered
    lowered.ir_version = min(lowered.ir_version, max(PLAIN_IR, needed))
    return lowered


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model, of opset 13 at least where onnx can convert it, with every domain that it uses imported."""
    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    known = {entry.domain for entry in raised.opset_import}
    domains = {node.domain for node in _nodes(raised.graph)} - known - set(STANDARD)
    raised.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(domains))
    if not any(entry.domain in STANDARD and entry.version < LEAST_OPSET for entry in raised.opset_import):
        return raised
    try:
        return onnx.version_converter.convert_version(raised, LEAST_OPSET)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        return raised  # of operators that onnx does not know; what is read of them is checked later


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """All nodes, those of subgraphs too."""
    nodes = list(graph.node)
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("g"):
                nodes += _nodes(entry.g)
    return nodes


def _since(node: onnx.NodeProto, opset: int, types: set[str]) -> int:
    """The lowest opset from PLAIN_OPSET on in which the operator means what it means in `opset`.

    Later versions that differ only in types that the file has none of, and in attributes that the node lacks, are the
    same: new attributes are made so that leaving them out changes nothing.
    """
    if node.domain not in STANDARD:
        return PLAIN_OPSET
    try:
        own, plain = (onnx.defs.get_schema(node.op_type, version, "") for version in (opset, PLAIN_OPSET))
    except onnx.defs.SchemaError:
        return opset
    signatures = [[(entry.name, entry.option) for entry in schema.inputs] for schema in (own, plain)]
    is_known = all(attribute.name in plain.attributes for attribute in node.attribute)
    is_same = signatures[0] == signatures[1] and not types & (_types_of(own) - _types_of(plain))
    return PLAIN_OPSET if is_known and is_same else max(PLAIN_OPSET, int(own.since_version))


def _types_of(schema: onnx.defs.OpSchema) -> set[str]:
    """All types that an operator takes or gives, such as "tensor(uint8)"."""
    return {text for constraint in schema.type_constraints for text in constraint.allowed_type_strs}


def _types_in(model: onnx.ModelProto) -> set[str]:
    """The types of a model's constants and of what its nodes name types of."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    for node in _nodes(model.graph):
        for attribute in node.attribute:
            kinds |= {attribute.t.data_type} if attribute.HasField("t") else set()
            kinds |= {attribute.i} if attribute.name in ("to", "dtype", "output_dtype") else set()
    return {f"tensor({onnx.TensorProto.DataType.Name(kind).lower()})" for kind in kinds}
