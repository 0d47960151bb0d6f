"""torch -> ONNX: the training step with its backward pass, and the encoder, as graphs of standard operators.

    TrainStep --make_fx--> aten graph (forward, backward, optimizer) --cse--> torch.onnx --passes--> train.onnx

The exporter's own optimizer stays off: it was seen to drop Adam's `+ 1e-8` and turn parameters into NaN. What it would
have cleaned, `export.passes` cleans.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import onnx
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta
from torch.onnx._internal.exporter._registration import ONNXRegistry

from edgessl.encoders.base import Encoder, evaluation_mode
from edgessl.errors import EdgeSSLError
from edgessl.layout import ParameterLayout
from edgessl.step import TrainStep, hyper_tensors
from export.branches import name_halves
from export.lines import Recording, located, tensor_lines
from export.lowerings import Lowerings
from export.passes import clean
from export.pieces import in_pieces, piece_rows
from export.purity import refuse_impure
from export.tensorrt.narrow import narrow_concats

OPSET = 20
IR_VERSION = 10
BATCH_INPUTS = ("batch", "noise", "stored")


def trace_step(
    step: TrainStep,
    batch_shape: Sequence[int],
    lowerings: Lowerings | None = None,
    lines: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """The whole training step for batches of `batch_shape` `(N, *input_shape)` as an ONNX model.

    Inputs: every slot by name, `batch`, `noise`, `hyper.<name>` scalars, and `stored` where the strategy takes the
    embeddings stored with samples. Outputs: `next.<slot>`, then the metrics. `lines` is filled with the line of the
    model behind each of the graph's tensors.

    Raises:
        ExportError: an operator has no ONNX form; the message names it and the line of the model.
    """
    lowerings = lowerings or Lowerings()
    function, arguments, inputs, outputs = _flat_step(step, batch_shape)
    with _fitting_pieces(step, batch_shape[0], lowerings):
        model = trace_function(function, arguments, inputs, outputs, lowerings, lines)
    if lowerings.flavour == "fast":
        name_halves(model, BATCH_INPUTS)
    else:
        narrow_concats(model)
    return model


def lower_step(step: TrainStep, batch_shape: Sequence[int], lowerings: Lowerings) -> GraphModule:
    """The first half of `trace_step`: the graph of lowered operators; `lowerings.choices` then knows what there was to
    choose.

    Raises:
        ExportError: an operator cannot be lowered; the message names it and the line of the model.
    """
    function, arguments, _, _ = _flat_step(step, batch_shape)
    with _fitting_pieces(step, batch_shape[0], lowerings):
        return aten_graph(function, arguments, lowerings)


def _fitting_pieces(step: TrainStep, batch_size: int, lowerings: Lowerings) -> AbstractContextManager[None]:
    # pieces fit a processor's caches; on an H200 they made ResNet-8's step 2.5 times slower
    whole = lowerings.flavour == "portable"
    return in_pieces(step, None if whole else piece_rows(step.parts.encoder, step.layout.size, batch_size))


Flat = tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...], list[str], list[str]]


def _flat_step(step: TrainStep, batch_shape: Sequence[int]) -> Flat:
    """The step as a function of tensors alone, arguments for it, and the names of its inputs and outputs."""
    slots, hypers = step.slot_names, tuple(step.hyper)
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    batch, noise = torch.rand(tuple(batch_shape)), torch.rand(step.noise_shape(batch_shape[0]))
    inputs = [*slots, "batch", "noise", *(f"hyper.{name}" for name in hypers)]
    outputs = [*(f"next.{name}" for name in slots), *step.metrics]
    arguments = (*state.values(), batch, noise, *hyper.values())
    if step.stores:
        inputs.append("stored")
        arguments = (*arguments, torch.randn(batch_shape[0], step.parts.encoder.embedding_dim))

    def flat_step(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs, tensors, strict=True))
        new_state, metrics = step(
            {name: given[name] for name in slots},
            given["batch"],
            given["noise"],
            {name: given[f"hyper.{name}"] for name in hypers},
            given.get("stored"),
        )
        return (*following(given, new_state), *(metrics[name] for name in step.metrics))

    return flat_step, arguments, inputs, outputs


def following(given: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The new `state`'s slots, copied where one is an input: one tensor must not be a graph's input and output."""
    old = {id(value) for value in given.values()}
    return tuple(value.clone() if id(value) in old else value for value in state.values())


def trace_function(
    function: Callable[..., tuple[Tensor, ...]],
    arguments: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    lowerings: Lowerings | None = None,
    lines: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """A function of tensors, gradients taken inside included, as an ONNX model for arguments of these shapes.

    Raises:
        ExportError: an operator has no ONNX form; the message names it and the line of the model.
    """
    graph = aten_graph(function, arguments, lowerings or Lowerings())
    merge_common_subexpressions(graph)
    return _to_onnx(graph, arguments, inputs, outputs, lines=lines)


def aten_graph(
    function: Callable[..., tuple[Tensor, ...]], arguments: tuple[Tensor, ...], lowerings: Lowerings
) -> GraphModule:
    """A function of tensors as a graph of lowered operators, each with the line of the model it comes from.

    Raises:
        ExportError: an operator cannot be lowered; the message names it and the line of the model.
    """
    recording = Recording()

    def recorded(*tensors: Tensor) -> tuple[Tensor, ...]:
        with recording:
            return function(*tensors)

    try:
        with preserve_node_meta():
            graph = make_fx(recorded, decomposition_table=lowerings.table(), tracing_mode="real")(*arguments)
    except EdgeSSLError:
        raise
    except Exception as error:  # whatever the model's own code raises when it is traced
        raise located(error, "the step") from error
    refuse_impure(graph)  # here, where the operator is still seen of which only a number was used
    return graph


class _EncoderFromTheta(nn.Module):
    """The encoder reading its tensors from the step's flat vector."""

    def __init__(self, encoder: Encoder, layout: ParameterLayout, prefix: str) -> None:
        super().__init__()
        self.__dict__["_encoder"] = encoder  # not a submodule: its parameters must not become initializers
        self._entries = [(e.name.removeprefix(prefix), e) for e in layout.entries if e.name.startswith(prefix)]

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        tensors = {name: theta[e.offset : e.offset + e.size].reshape(e.shape) for name, e in self._entries}
        return functional_call(self.__dict__["_encoder"], tensors, (x,))


def trace_encoder(
    encoder: Encoder, layout: ParameterLayout, slot: str = "theta", lines: dict[str, str] | None = None
) -> onnx.ModelProto:
    """The encoder (evaluation mode) with the step's `slot` as an input, any batch size: `(slot, x) -> embedding`.

    `lines` is filled with the line of the model behind each of the graph's tensors.

    Raises:
        ExportError: an operator has no ONNX form; the message names it and the line of the model.
    """
    module = _EncoderFromTheta(encoder, layout, "encoder.").eval()
    example = (torch.zeros(layout.size), torch.rand(2, *encoder.input_shape))
    with evaluation_mode(encoder):
        return _to_onnx(module, example, [slot, "x"], ["embedding"], dynamic_batch="x", lines=lines)


def trace_frozen_encoder(
    encoder: Encoder, output: str = "embedding", lines: dict[str, str] | None = None
) -> onnx.ModelProto:
    """The encoder (evaluation mode) with its weights inside, any batch size: `x -> output`; see `trace_encoder`."""
    with evaluation_mode(encoder):
        example = (torch.rand(2, *encoder.input_shape),)
        return _to_onnx(encoder, example, ["x"], [output], dynamic_batch="x", lines=lines)


def merge_common_subexpressions(graph: GraphModule) -> None:
    """Replace nodes that repeat an earlier one (same operator, same arguments) by it, in place."""
    seen: dict[object, torch.fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or "rand" in str(node.target) or node.target is torch.ops.aten.clone.default:
            continue  # two copies of one tensor are two outputs
        key = (node.target, _hashable(node.args), _hashable(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.graph.erase_node(node)
        else:
            seen[key] = node
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _hashable(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(v) for v in value)
    if isinstance(value, dict):
        return tuple(sorted((k, _hashable(v)) for k, v in value.items()))
    # 0.0 and -0.0, 1 and 1.0 and True compare equal but do not mean the same argument
    return value if isinstance(value, torch.fx.Node) else (type(value), repr(value))


def _to_onnx(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic_batch: str | None = None,
    lines: dict[str, str] | None = None,
) -> onnx.ModelProto:
    dynamic = None
    if dynamic_batch is not None:
        dynamic = tuple({0: torch.export.Dim.DYNAMIC} if name == dynamic_batch else None for name in inputs)
    try:
        with _quiet(), _one_registry(), torch.no_grad():
            program = torch.export.export(module, arguments, dynamic_shapes=dynamic)
            refuse_impure(program.graph_module)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
    except EdgeSSLError:
        raise
    except Exception as error:  # the exporter raises what its dozen layers raise
        nodes = module.graph.nodes if isinstance(module, GraphModule) else ()
        raise located(error, "the graph", nodes) from error
    assert exported is not None
    found = tensor_lines(exported.model_proto)
    if lines is not None:
        lines.update(found)
    return clean(exported.model_proto, inputs, outputs, IR_VERSION, found)


@contextlib.contextmanager
def _one_registry() -> Iterator[None]:
    """torch.onnx makes its table of ONNX functions anew for every export, some 2 s; here, once a process is enough."""
    original = ONNXRegistry.from_torchlib
    ONNXRegistry.from_torchlib = staticmethod(_registry)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


@functools.cache
def _registry(opset_version: int, _make: Callable[..., ONNXRegistry] = ONNXRegistry.from_torchlib) -> ONNXRegistry:
    return _make(opset_version=opset_version)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress prints and deprecation warnings are not for our users; its errors are."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        said = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
