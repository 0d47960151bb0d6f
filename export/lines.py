"""Which operator an export stumbles over, and which line of the model asks for it.

An operator reaches the exporter through torch's code, autograd's included, so its own traceback says little. While a
step is traced, `Recording` notes the line of the model behind every operator; for one of the backward pass, the line
of the forward operator whose gradient it computes. torch.fx keeps the note with its node, torch.export and torch.onnx
hand it on to the ONNX nodes, and `tensor_lines` reads it from those before it is stripped.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import onnx
import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.fx import Node
from torch.fx.traceback import set_stack_trace
from torch.utils._python_dispatch import TorchDispatchMode

from edgessl.errors import ExportError

Lines = Mapping[str, str]  # tensor of an ONNX graph -> "file:line, in function"
_STACK_TRACE = "pkg.torch.onnx.stack_trace"  # the exporter's name for it among a node's metadata
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_ENGINE = "_engine_run_backward"  # the frame below which autograd calls operators by itself
_packages = [os.path.dirname(m.__file__) for m in (torch, onnx) if m.__file__] + [os.path.dirname(__file__)]
_NOT_THE_MODEL = (*(os.path.join(p, "") for p in _packages), "<")  # "<": code that was made, not written
_NO_FORM = "has no ONNX form"
ON_DATA = "a graph does the same whatever the values are; compute both sides and choose with torch.where"


class Recording(TorchDispatchMode):
    """Within, every operator is noted with the line of the model that asked for it, and one that fails is named.

    Raises:
        ExportError: an operator failed; the message names it, the line and the cause.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._forward: dict[int, str] = {}  # number of an autograd node -> the line whose operator made it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        line = self._line()
        if isinstance(func, HigherOrderOperator):
            raise stumbled(operator_name(func), line, ON_DATA)
        self._forward.setdefault(torch.autograd._get_sequence_nr() - 1, line)
        set_stack_trace([line])
        try:
            return func(*args, **(kwargs or {}))
        except Exception as error:
            raise stumbled(operator_name(func), line, _why(error)) from error

    def _line(self) -> str:
        frame: FrameType | None = sys._getframe(2)
        node = torch._C._current_autograd_node()
        while frame is not None:
            if node is not None and frame.f_code.co_name == _ENGINE:
                return self._forward.get(node._sequence_nr(), "")
            if _is_model(frame.f_code.co_filename):
                return f'File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'
            frame = frame.f_back
        return ""


def stumbled(operator: str, line: str, why: str) -> ExportError:
    """The error that says `why` an `operator` cannot be exported; `line` as Python's tracebacks write it, or ""."""
    where = shown(line)
    return ExportError(f"{operator}, at {where}: {why}" if where else f"{operator}: {why}")


def located(error: Exception, what: str, nodes: Iterable[Node] = ()) -> ExportError:
    """An `ExportError` for what an exporter raised: of the operator it was at, or of the line of the model.

    Args:
        error: with its traceback and causes.
        what: could not be done, for errors that belong to no operator.
        nodes: of the graph that was exported, if it is one.
    """
    why = _why(error)
    for cause in _causes(error):
        if isinstance(cause, ExportError):  # named where it happened
            return cause
    for cause in _causes(error):
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            for name in ("node", "n"):  # every layer of torch's exporter calls what it is at so
                node = frame.f_locals.get(name)
                if isinstance(node, Node) and node.op == "call_function":
                    said = why + _for_complex(node) if why == _NO_FORM else why
                    return stumbled(operator_name(node.target), node.stack_trace or "", said)
    for node in nodes:
        if (schema := getattr(node.target, "_schema", None)) and schema.is_mutable:
            return stumbled(operator_name(node.target), node.stack_trace or "", f"writes into a tensor ({why})")
    frames = [
        f'File "{frame.f_code.co_filename}", line {number}, in {frame.f_code.co_name}'
        for cause in _causes(error)
        for frame, number in traceback.walk_tb(cause.__traceback__)
    ]
    return stumbled(what, "\n".join(frames), why)


def tensor_lines(model: onnx.ModelProto) -> dict[str, str]:
    """The line of the model behind each tensor that a node of a freshly exported graph makes."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        trace = next((p.value for p in node.metadata_props if p.key == _STACK_TRACE), "")
        if where := shown(trace):
            found.update(dict.fromkeys(node.output, where))
    return found


def line_of(node: onnx.NodeProto, lines: Lines) -> str:
    """`", at file:line, in function"` for a node whose line is known, else nothing."""
    where = next((lines[name] for name in node.output if name in lines), None)
    return "" if where is None else f", at {where}"


def shown(trace: str) -> str:
    """The innermost line of the model in a stack trace, as `file:line, in function`; "" without one."""
    for file, number, function in reversed(_FRAME.findall(trace)):
        if _is_model(file):
            return f"{_short(file)}:{number}, in {function}"
    return ""


def operator_name(target: object) -> str:
    """`aten.convolution`, `mylib.cube`: an operator as its users call it."""
    return str(target).removesuffix(".default")


def _why(error: BaseException) -> str:
    """What started it, in a sentence or a paragraph."""
    *_, first = _causes(error)
    text = str(first).strip().split("\n\n")[0]
    if "data-dependent" in text:
        return ON_DATA
    return _NO_FORM if text.startswith("No ONNX function found") else text or type(first).__name__


def _for_complex(node: Node) -> str:
    values = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    found = next((v.dtype for v in values if isinstance(v, Tensor) and v.dtype.is_complex), None)
    return f" for {str(found).removeprefix('torch.')} numbers" if found else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _is_model(file: str) -> bool:
    return not file.startswith(_NOT_THE_MODEL)


def _short(file: str) -> str:
    """The path from here, where the file is below."""
    here, path = Path.cwd(), Path(file)
    return str(path.relative_to(here)) if path.is_relative_to(here) else file
