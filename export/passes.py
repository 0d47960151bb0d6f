"""Clean-up of exported graphs: what the exporter leaves behind, and three rewrites worth their place.

Every pass keeps the graph's results bit for bit, but for `relu_gradient`, exact for inputs of at least 3e-39.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgessl.device.bundle.operators import ALLOWED
from edgessl.errors import ExportError
from export.lines import Lines, line_of
from export.rewrites import expand_late, known_types, parts_by_slices, simple_powers

_FOLD_UP_TO = 1 << 20  # bytes; a larger folded constant would cost more than the operator
_GROW_UP_TO = 1 << 12  # bytes; from here on a constant larger than what it is made of is left to onnxruntime's loader
_RANDOM = ("RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Bernoulli", "Multinomial")
_NEVER_FOLDED = ("ConstantOfShape", *_RANDOM)
_MAY_BE_NO_OPS = ("Identity", "Cast", "CastLike", "Reshape", "Expand", "Shape")
_UNIFORM_FROM = 64  # elements; a constant of one repeated value is stored as ConstantOfShape from here on


def clean(
    model: onnx.ModelProto, inputs: list[str], outputs: list[str], ir_version: int, lines: Lines
) -> onnx.ModelProto:
    """Run all passes and check the result: operators that a device takes, the promised inputs and outputs.

    Raises:
        ExportError: an operator that no device takes (the message names it and, from `lines`, the line of the model),
            external data, or a lost input or output.
    """
    graph = model.graph
    _check_self_contained(graph)
    constants_to_initializers(graph)
    parts_by_slices(graph)
    simple_powers(graph)
    while fold_constants(graph) + drop_no_ops(model) + merge_duplicates(graph):
        pass
    relu_gradient(graph)
    expand_late(model)
    drop_zero_bias(graph)
    drop_dead(graph)
    uniform_constants(graph)
    restore_unused_inputs(graph, inputs)
    strip(model)
    model.ir_version = ir_version
    _check(model, inputs, outputs, lines)
    return model


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, so that the other passes see one kind of constant."""
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        attribute = node.attribute[0]
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
        else:
            dtype = {"value_float": np.float32, "value_floats": np.float32}.get(attribute.name, np.int64)
            tensor = numpy_helper.from_array(np.asarray(helper.get_attribute_value(attribute), dtype), node.output[0])
        graph.initializer.append(tensor)
        graph.node.remove(node)


def fold_constants(graph: onnx.GraphProto) -> int:
    """Evaluate nodes whose inputs are all constants (with onnx's reference evaluator). Returns how many went."""
    values = {t.name: t for t in graph.initializer}
    kept_names = {o.name for o in graph.output}
    folded = 0
    for node in list(graph.node):
        constant = all(name in values for name in node.input if name) and node.op_type not in _NEVER_FOLDED
        if not constant or kept_names.intersection(node.output):
            continue
        feeds = {name: numpy_helper.to_array(values[name]) for name in node.input if name}
        results = _evaluate(node, feeds)
        most = max(value.nbytes for value in results)
        if most > _FOLD_UP_TO or most > max(_GROW_UP_TO, sum(value.nbytes for value in feeds.values())):
            continue
        for name, value in zip(node.output, results, strict=True):
            values[name] = numpy_helper.from_array(value, name)
            graph.initializer.append(values[name])
        graph.node.remove(node)
        folded += 1
    return folded


def _evaluate(node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    single = helper.make_graph([node], "fold", inputs, outputs)
    return [np.asarray(value) for value in ReferenceEvaluator(single, opsets={"": 20}).run(None, feeds)]


def drop_no_ops(model: onnx.ModelProto) -> int:
    """Remove Identity, and casts, reshapes and expands to what the input already is; Shape of a known shape becomes a
    constant. Returns how many went."""
    graph = model.graph
    shapes, dtypes = known_types(onnx.shape_inference.infer_shapes(model).graph)
    kept_names = {o.name for o in graph.output}
    renamed: dict[str, str] = {}
    went = 0
    for node in list(graph.node):
        _rename_inputs(node, renamed)
        if node.op_type not in _MAY_BE_NO_OPS or node.output[0] in kept_names:
            continue
        source, result = node.input[0], node.output[0]
        if node.op_type == "Shape":
            if (shape := shapes.get(source)) is not None and all(isinstance(d, int) for d in shape):
                ends = {a.name: a.i for a in node.attribute}
                part = shape[ends.get("start", 0) : ends.get("end", len(shape))]
                graph.initializer.append(numpy_helper.from_array(np.array(part, np.int64), result))
                graph.node.remove(node)
                went += 1
            continue
        same_dtype = dtypes.get(source) is not None and dtypes.get(source) == dtypes.get(result)
        same_shape = shapes.get(source) is not None and shapes.get(source) == shapes.get(result)
        if node.op_type == "Identity" or (same_dtype and same_shape):
            renamed[result] = source
            graph.node.remove(node)
    return went + len(renamed)


def merge_duplicates(graph: onnx.GraphProto) -> int:
    """Merge equal initializers, and nodes with equal operator, inputs and attributes. Returns how many went."""
    kept_names = {o.name for o in graph.output}
    renamed: dict[str, str] = {}
    first: dict[bytes, str] = {}
    for tensor in list(graph.initializer):
        value = numpy_helper.to_array(tensor)
        key = f"{value.dtype}{value.shape}".encode() + value.tobytes()
        if first.setdefault(key, tensor.name) != tensor.name and tensor.name not in kept_names:
            renamed[tensor.name] = first[key]
            graph.initializer.remove(tensor)
    seen: dict[bytes, list[str]] = {}
    for node in list(graph.node):
        _rename_inputs(node, renamed)
        attributes = b"".join(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        key = "\0".join([node.domain, node.op_type, *node.input]).encode() + b"\0\0" + attributes
        outputs = seen.setdefault(key, list(node.output))
        if (
            outputs != list(node.output)
            and not kept_names.intersection(node.output)
            and len(outputs) == len(node.output)
        ):
            renamed.update(zip(node.output, outputs, strict=True))
            graph.node.remove(node)
    return len(renamed)


def relu_gradient(graph: onnx.GraphProto) -> int:
    """`Where(x <= 0, 0, g)` -> `HardSigmoid(x; 3e38, 0) * g`: 2.6 times faster per operator. Returns how many."""
    initial = {t.name: t for t in graph.initializer}
    producer = {o: n for n in graph.node for o in n.output}
    count = 0

    def is_zero(name: str) -> bool:
        return name in initial and not numpy_helper.to_array(initial[name]).any()

    nodes = list(graph.node)
    for index, node in enumerate(nodes):
        test = producer.get(node.input[0]) if node.op_type == "Where" else None
        if test is None or test.op_type != "LessOrEqual" or not (is_zero(test.input[1]) and is_zero(node.input[1])):
            continue
        mask = f"{node.output[0]}.mask"
        nodes[index] = helper.make_node("Mul", [mask, node.input[2]], list(node.output))
        hard = helper.make_node("HardSigmoid", [test.input[0]], [mask], alpha=3e38, beta=0.0)
        nodes[index : index + 1] = [hard, nodes[index]]
        count += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def drop_zero_bias(graph: onnx.GraphProto) -> None:
    """Convolutions forget a bias that is constant zero (the exporter writes one for `bias=False`)."""
    zeros = {t.name for t in graph.initializer if not numpy_helper.to_array(t).any()}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]


def drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers whose results nobody reads."""
    needed = {o.name for o in graph.output}
    alive = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            alive.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(alive))
    kept = [t for t in graph.initializer if t.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def uniform_constants(graph: onnx.GraphProto) -> None:
    """Large constants of one repeated value become ConstantOfShape nodes (ORT folds them at load)."""
    made = []
    for tensor in list(graph.initializer):
        value = numpy_helper.to_array(tensor)
        if (
            value.size < _UNIFORM_FROM
            or value.dtype != np.float32
            or value.tobytes() != value.size * value.flat[0].tobytes()
        ):
            continue
        shape_name = f"{tensor.name}.shape"
        fill = numpy_helper.from_array(value.reshape(-1)[:1], "value")
        made.append(helper.make_node("ConstantOfShape", [shape_name], [tensor.name], value=fill))
        shape = numpy_helper.from_array(np.array(value.shape, np.int64), shape_name)
        graph.initializer.remove(tensor)
        graph.initializer.append(shape)
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def restore_unused_inputs(graph: onnx.GraphProto, inputs: list[str]) -> None:
    """Put the graph's inputs in the promised order; one that nothing reads (a hyperparameter) stays an input."""
    present = {i.name: i for i in graph.input}
    missing = [name for name in inputs if name not in present]
    if missing:
        raise ExportError(f"the exported graph lost its inputs {missing}; expected {inputs}, found {sorted(present)}")
    ordered = [onnx.ValueInfoProto.FromString(present[name].SerializeToString()) for name in inputs]
    del graph.input[:]
    graph.input.extend(ordered)


def strip(model: onnx.ModelProto) -> None:
    """Drop documentation, metadata and intermediate types: a step shrinks from 0.7 to 0.2 MB."""
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.producer_name, model.producer_version = "edgessl", ""
    for node in model.graph.node:
        node.doc_string = node.name = ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]
    used = Counter(node.domain for node in model.graph.node)
    kept = [o for o in model.opset_import if o.domain == "" or o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _check_self_contained(graph: onnx.GraphProto) -> None:
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer):
        raise ExportError("the graph keeps tensors in external files; a bundle's graphs hold everything themselves")


def _check(model: onnx.ModelProto, inputs: list[str], outputs: list[str], lines: Lines) -> None:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            name = f"{node.domain}.{node.op_type}"
            raise ExportError(f"{name}{line_of(node, lines)}: an operator outside the standard domain")
        if node.op_type.encode() not in ALLOWED:
            raise ExportError(
                f"{node.op_type}{line_of(node, lines)}: devices refuse this operator (control flow, random numbers, "
                "sequences); write it as arithmetic on tensors"
            )
    if model.functions:
        raise ExportError(f"the graph has {len(model.functions)} local functions; a device takes operators only")
    found = [o.name for o in model.graph.output]
    if found != outputs:
        raise ExportError(f"the exported graph has outputs {found}; expected {outputs}")
    onnx.checker.check_model(model)


def _rename_inputs(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    for i, name in enumerate(node.input):
        while name in renamed:
            name = renamed[name]
        node.input[i] = name
