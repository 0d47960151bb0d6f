"""torch -> ONNX: the training step with its backward pass, and the encoder, as graphs of standard operators.

    TrainStep --make_fx--> aten graph (forward, backward, optimizer) --cse--> torch.onnx --passes--> train.onnx

The exporter's own optimizer stays off: it was seen to drop Adam's `+ 1e-8` and turn parameters into NaN. What it would
have cleaned, `export.passes` cleans.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from edgessl.encoders.base import Encoder, evaluation_mode
from edgessl.errors import ExportError
from edgessl.layout import ParameterLayout
from edgessl.step import TrainStep, hyper_tensors
from export.lowerings import Lowerings
from export.passes import clean
from export.pieces import in_pieces, piece_rows

OPSET = 20
IR_VERSION = 10


def trace_step(step: TrainStep, batch_shape: Sequence[int], lowerings: Lowerings | None = None) -> onnx.ModelProto:
    """The whole training step for batches of `batch_shape` `(N, *input_shape)` as an ONNX model.

    Inputs: every slot by name, `batch`, `noise`, `hyper.<name>` scalars, and `stored` where the strategy takes the
    embeddings stored with samples. Outputs: `next.<slot>`, then the metrics.

    Raises:
        ExportError: an operator has no ONNX form; the message names it and the line of the model.
    """
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

    # pieces fit a processor's caches; on an H200 they made ResNet-8's step 2.5 times slower
    whole = lowerings is not None and lowerings.flavour == "portable"
    with in_pieces(step, None if whole else piece_rows(step.parts.encoder, step.layout.size)):
        return trace_function(flat_step, arguments, inputs, outputs, lowerings)


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
) -> onnx.ModelProto:
    """A function of tensors, gradients taken inside included, as an ONNX model for arguments of these shapes.

    Raises:
        ExportError: an operator has no ONNX form; the message names it and the line of the model.
    """
    try:
        table = (lowerings or Lowerings()).table()
        graph = make_fx(function, decomposition_table=table, tracing_mode="real")(*arguments)
    except RuntimeError as error:
        raise ExportError(f"the step cannot be traced: {_first_cause(error)}") from error
    merge_common_subexpressions(graph)
    return _to_onnx(graph, arguments, inputs, outputs)


class _EncoderFromTheta(nn.Module):
    """The encoder reading its tensors from the step's flat vector."""

    def __init__(self, encoder: Encoder, layout: ParameterLayout, prefix: str) -> None:
        super().__init__()
        self.__dict__["_encoder"] = encoder  # not a submodule: its parameters must not become initializers
        self._entries = [(e.name.removeprefix(prefix), e) for e in layout.entries if e.name.startswith(prefix)]

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        tensors = {name: theta[e.offset : e.offset + e.size].reshape(e.shape) for name, e in self._entries}
        return functional_call(self.__dict__["_encoder"], tensors, (x,))


def trace_encoder(encoder: Encoder, layout: ParameterLayout, slot: str = "theta") -> onnx.ModelProto:
    """The encoder (evaluation mode) with the step's `slot` as an input, any batch size: `(slot, x) -> embedding`."""
    module = _EncoderFromTheta(encoder, layout, "encoder.").eval()
    example = (torch.zeros(layout.size), torch.rand(2, *encoder.input_shape))
    with evaluation_mode(encoder):
        return _to_onnx(module, example, [slot, "x"], ["embedding"], dynamic_batch="x")


def trace_frozen_encoder(encoder: Encoder, output: str = "embedding") -> onnx.ModelProto:
    """The encoder (evaluation mode) with its weights inside, any batch size: `x -> output`."""
    with evaluation_mode(encoder):
        return _to_onnx(encoder, (torch.rand(2, *encoder.input_shape),), ["x"], [output], dynamic_batch="x")


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
) -> onnx.ModelProto:
    dynamic = None
    if dynamic_batch is not None:
        dynamic = tuple({0: torch.export.Dim.DYNAMIC} if name == dynamic_batch else None for name in inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(module, arguments, dynamic_shapes=dynamic)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
    except Exception as error:  # the exporter raises what its dozen layers raise
        raise ExportError(f"the graph has no ONNX form: {_first_cause(error)}") from error
    assert exported is not None
    return clean(exported.model_proto, inputs, outputs, IR_VERSION)


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n\n")[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress prints and deprecation warnings are not for our users; its errors are."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
