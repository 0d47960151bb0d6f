"""What cannot be exported is named: the operator, the line of the model that asks for it, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from edgessl.cli import cli
from edgessl.encoders import ENCODERS, Encoder, EncoderEntry, InputNormalization
from edgessl.errors import ConfigError, ExportError
from edgessl.layout import ParameterLayout
from edgessl.objectives import build_objective
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep
from edgessl.views import Pipeline
from export import trace_encoder, trace_frozen_encoder, trace_step
from export.kernels import check_kernels
from export.lines import shown
from export.quantize import quantize_encoder, quantize_graph, with_theta
from export.quantize.requantization import requantization_plan
from export.trace import trace_function

HERE = Path(__file__)


@torch.library.custom_op("edgessl_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x**3


@torch.library.custom_op("edgessl_tests::cube_backward", mutates_args=())
def cube_backward(grad: Tensor, x: Tensor) -> Tensor:
    return grad * 3 * x**2


cube.register_fake(torch.empty_like)
cube_backward.register_fake(lambda grad, x: torch.empty_like(x))
cube.register_autograd(
    lambda ctx, grad: grad * 3 * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


class OddGradient(torch.autograd.Function):
    """The cube, with a gradient that only a custom operator knows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return cube_backward(grad, ctx.saved_tensors[0])  # here: own gradient


def cubed(x: Tensor) -> Tensor:
    return cube(x)  # here: custom operator


def own_gradient(x: Tensor) -> Tensor:
    return OddGradient.apply(x)


def sampled(x: Tensor) -> Tensor:
    places = x.new_zeros(len(x), 1, 4, 2)
    return nn.functional.grid_sample(x.reshape(-1, 1, 1, 4), places, align_corners=False)  # here: gradient without form


def spectrum(x: Tensor) -> Tensor:
    return torch.fft.fft(x).abs()  # here: complex


def volume(x: Tensor) -> Tensor:
    kernel = x.new_ones(1, 1, 1, 1, 3)
    return nn.functional.conv3d(x.reshape(-1, 1, 1, 1, 4), kernel, padding=(0, 0, 1))  # here: 3-D


def transposed_volume(x: Tensor) -> Tensor:
    kernel = x.new_ones(1, 1, 1, 1, 3)
    return nn.functional.conv_transpose3d(x.reshape(-1, 1, 1, 1, 4), kernel)  # here: transposed 3-D


def too_wide(x: Tensor) -> Tensor:
    return nn.functional.conv1d(x.unsqueeze(1), x.new_ones(1, 1, 9))  # here: kernel wider than its input


def branch(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x  # here: branch


def conditional(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (x,))  # here: cond


def masked(x: Tensor) -> Tensor:
    return x + x[x > 0].sum()  # here: mask


def counted(x: Tensor) -> Tensor:
    return x * torch.unique(x).numel()  # here: unique


def drawn(x: Tensor) -> Tensor:
    return x + torch.rand_like(x)  # here: random


def dropped(x: Tensor) -> Tensor:
    return nn.functional.dropout(x, 0.5, training=True)  # here: dropout


def mistaken(x: Tensor) -> Tensor:
    return x @ x  # here: shapes


# function, the operator, the comment at the line, why
REFUSED: list[tuple[Callable[[Tensor], Tensor], str, str, str]] = [
    (volume, "aten.convolution_backward", "3-D", "of a 3-D convolution has no lowering"),
    (transposed_volume, "aten.convolution_backward", "transposed 3-D", "of a 3-D convolution has no lowering"),
    (too_wide, "aten.convolution", "kernel wider than its input", "Kernel size can't be greater"),
    (branch, "aten._local_scalar_dense", "branch", "torch.where"),
    (conditional, "cond", "cond", "torch.where"),
    (masked, "aten.index.Tensor", "mask", "shape depends on values"),
    (counted, "aten._unique2", "unique", "shape depends on values"),
    (drawn, "aten.rand_like", "random", "take them from `noise`"),
    (dropped, "aten.bernoulli_.float", "dropout", "take them from `noise`"),
    (mistaken, "aten.mm", "shapes", "cannot be multiplied"),
    (own_gradient, "edgessl_tests.cube_backward", "own gradient", "has no ONNX form"),
    (sampled, "aten.grid_sampler_2d_backward", "gradient without form", "has no ONNX form"),
    (spectrum, "aten.where.self", "complex", "has no ONNX form for complex64 numbers"),
]


def line_with(comment: str) -> int:
    """The number of the line of this file that ends in the comment."""
    (number,) = [i for i, text in enumerate(HERE.read_text().splitlines(), 1) if text.endswith(f"# here: {comment}")]
    return number


def trace_gradient(function: Callable[[Tensor], Tensor]) -> None:
    """Trace the gradient of a small network through `function` of `(3, 4)`."""

    def gradient(weight: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        weight = weight.detach().requires_grad_()
        with torch.enable_grad():
            loss = function(x @ weight).square().sum()
        return torch.autograd.grad(loss, weight)

    trace_function(gradient, (torch.rand(4, 4), torch.rand(3, 4)), ["weight", "x"], ["gradient"])


@pytest.mark.parametrize(("function", "operator", "comment", "why"), REFUSED, ids=[case[2] for case in REFUSED])
def test_the_operator_and_the_line_are_named(
    function: Callable[[Tensor], Tensor], operator: str, comment: str, why: str
) -> None:
    with pytest.raises(ExportError) as raised:
        trace_gradient(function)
    said = str(raised.value)
    assert said.startswith(f"{operator}, at ")
    assert (
        f"{HERE.name}:{line_with(comment)}, in {function.__name__ if comment != 'own gradient' else 'backward'}: "
        in said
    )
    assert why in said


def test_what_a_mask_of_constants_picks_has_one_shape() -> None:
    def off_diagonal(x: Tensor) -> Tensor:
        return x[~torch.eye(3, 4, dtype=torch.bool)]

    trace_gradient(off_diagonal)


def test_errors_of_other_kinds_pass_as_they_are() -> None:
    def function(x: Tensor) -> Tensor:
        raise ConfigError("no such option")

    with pytest.raises(ConfigError, match="no such option"):
        trace_gradient(function)


def test_errors_of_the_model_s_own_code_have_their_line() -> None:
    def function(x: Tensor) -> Tensor:
        raise KeyError("heads")  # here: own code

    with pytest.raises(
        ExportError, match=rf"the step, at \S*{HERE.name}:{line_with('own code')}, in function: 'heads'"
    ):
        trace_gradient(function)


def doubled(x: Tensor) -> Tensor:
    return x.double().erf().to(x.dtype)  # here: no kernel


def test_what_onnxruntime_has_no_kernel_for_is_named() -> None:
    lines: dict[str, str] = {}
    model = trace_function(lambda x: (doubled(x),), (torch.rand(3, 4),), ["x"], ["y"], None, lines)
    said = rf"Erf, at \S*{HERE.name}:{line_with('no kernel')}, in doubled: onnxruntime \S+ has no kernel .* with double"
    with pytest.raises(ExportError, match=said):
        check_kernels(model, "train", lines)


def test_a_graph_that_onnxruntime_refuses_otherwise_says_why() -> None:
    model = trace_function(lambda x: (x + 1,), (torch.rand(3, 4),), ["x"], ["y"])
    next(n for n in model.graph.node if n.op_type == "Add").input[1] = "lost"
    with pytest.raises(ExportError, match=r"cannot load the graph: .*lost"):
        check_kernels(model, "train", {})


class Stage(nn.Module):
    """A linear map, then any function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x.flatten(1)))  # here: forward


def encoder_with(function: Callable[[Tensor], Tensor]) -> Encoder:
    return Encoder({"pool": Stage(function)}, (1, 8, 8), InputNormalization([0.0], [1.0], 3))


def test_a_step_names_them() -> None:
    parts = build_objective("simclr"), build_optimizer("sgd"), Pipeline((), (1, 8, 8))
    with pytest.raises(
        ExportError, match=rf"edgessl_tests\.cube, at \S*{HERE.name}:{line_with('custom operator')}, in cubed"
    ):
        trace_step(TrainStep(encoder_with(cubed), *parts), (4, 1, 8, 8))


@pytest.mark.parametrize(
    ("function", "operator", "comment"),
    [(cubed, "edgessl_tests.cube", "forward"), (drawn, "aten.rand_like", "forward"), (branch, "the graph", "branch")],
)
def test_an_encoder_names_the_line_of_the_module(
    function: Callable[[Tensor], Tensor], operator: str, comment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=rf"{operator}, at \S*{HERE.name}:{line_with(comment)}, in "):
        trace_frozen_encoder(encoder_with(function))
    said = capfd.readouterr()
    assert not said.out + said.err  # what the exporter prints is not for people


def diverging(x: Tensor) -> Tensor:
    return (x - x).log() @ torch.eye(4)  # the activation that a matrix product reads is rounded


class Standardised(nn.Module):
    """A linear map whose weights a device would have to compute anew."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 64))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.weight / self.weight.norm())  # here: computed weights


@pytest.mark.parametrize(
    ("function", "operator", "why"), [(doubled, "Erf", "has no kernel"), (diverging, "Log", "infinite or NaN")]
)
def test_quantizing_names_the_operator_and_the_line(
    function: Callable[[Tensor], Tensor], operator: str, why: str
) -> None:
    place = rf"({operator}), at \S*{HERE.name}:{line_with('forward')}, in forward: .*{why}"
    with pytest.raises(ExportError, match=place):
        quantize_encoder(encoder_with(function), np.ones((16, 1, 8, 8), np.float32))


def test_weights_that_a_device_cannot_follow_are_named() -> None:
    encoder = Encoder({"pool": Standardised()}, (1, 8, 8), InputNormalization([0.0], [1.0], 3))
    parts = nn.ModuleDict({"encoder": encoder})
    layout, lines = ParameterLayout.of(parts), dict[str, str]()
    theta, model = layout.flatten_module(parts).numpy(), trace_encoder(encoder, layout, lines=lines)
    graph = with_theta(model, "theta", theta, lines)
    written = quantize_graph(graph, np.random.default_rng(0).random((16, 1, 8, 8), np.float32))
    with pytest.raises(ExportError) as raised:
        requantization_plan(graph, written, theta.size)
    where = rf"(Gemm|MatMul), at \S*{HERE.name}:{line_with('computed weights')}, in forward: .*computed from theta"
    assert re.match(where, str(raised.value)), raised.value


def test_the_command_line_says_it_in_one_paragraph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(input_shape: Any, **options: Any) -> dict[str, nn.Module]:
        return {"pool": Stage(branch)}

    monkeypatch.setitem(ENCODERS, "odd", EncoderEntry(odd, ("image",), "odd"))
    path = tmp_path / "odd.safetensors"
    arguments = ["pretrain", "digits", "--data", "size=8", "--encoder", "odd", "--epochs", "1", "--out", str(path)]
    assert CliRunner().invoke(cli, arguments, prog_name="edgessl").exit_code == 0
    done = CliRunner().invoke(cli, ["export", str(path), "--no-int8"], prog_name="edgessl")
    assert done.exit_code == 2
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("edgessl: ")]
    assert f"aten._local_scalar_dense, at {shown(frame('branch'))}: " in line
    assert "Traceback" not in done.output


def frame(comment: str) -> str:
    """A line of this file as Python's tracebacks write it."""
    return f'File "{HERE}", line {line_with(comment)}, in branch'
