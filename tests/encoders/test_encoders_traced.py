"""What the training step and the exporter ask of an encoder: traceable, functional, exportable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from edgessl.encoders import Encoder, build_encoder, collect_batch_statistics

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CASES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("ds_cnn_s", (1, 16, 16), {}),
    ("ds_cnn_s", (1, 16, 16), {"norm": "batch"}),
    ("ds_cnn_m", (1, 8, 8), {}),
    ("ds_cnn_l", (1, 8, 8), {}),
    ("resnet8", (3, 16, 16), {}),
    ("resnet18", (1, 8, 8), {}),
    ("vit", (1, 16, 16), {}),
    ("cnn1d", (6, 64), {}),
    ("signal_transformer", (6, 64), {"causal": True}),
]


def operators(traced: torch.fx.GraphModule) -> list[torch._ops.OpOverload]:
    found = [node.target for node in traced.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_forward_is_written_without_mutation_or_randomness(
    name: str, shape: tuple[int, ...], options: dict[str, Any], training: bool
) -> None:
    encoder = build_encoder(name, shape, **options).train(training)
    for operator in operators(make_fx(encoder)(torch.rand(3, *shape))):
        assert not operator._schema.is_mutable, operator
        assert torch.Tag.nondeterministic_seeded not in operator.tags, operator


@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_forward_and_backward_trace_to_pure_operators(
    name: str, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    encoder = build_encoder(name, shape, **options)
    parameters = dict(encoder.named_parameters())

    def step(parameters: dict[str, Tensor], x: Tensor) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            embedding = torch.func.functional_call(encoder, parameters, (x,))
            return (embedding * embedding).mean(), collect_batch_statistics(encoder)

        gradients, (value, statistics) = torch.func.grad_and_value(loss, has_aux=True)(parameters)
        return gradients, value, statistics

    traced = make_fx(torch.func.functionalize(step))(parameters, torch.rand(3, *shape))
    for operator in operators(traced):
        assert not operator._schema.is_mutable, operator
        assert torch.Tag.nondeterministic_seeded not in operator.tags, operator

    # other values, other branches: a trace that took a decision on data would differ
    other = {path: parameter.detach() * 1.5 for path, parameter in parameters.items()}
    x = torch.rand(3, *shape) * 4 - 2
    torch.testing.assert_close(traced(other, x), step(other, x), atol=1e-5, rtol=1e-4)


def export(encoder: Encoder) -> Any:
    sample = torch.rand(2, *encoder.input_shape)
    program = torch.onnx.export(
        encoder,
        (sample,),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        input_names=["x"],
        output_names=["embedding"],
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return ort.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_onnx_agrees_with_torch(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    encoder = build_encoder(name, shape, mean=[0.4] * shape[0], std=[0.3] * shape[0], **options).eval()
    session = export(encoder)
    assert session.get_inputs()[0].shape == ["N", *shape]
    for batch in (1, 5):
        x = torch.rand(batch, *shape)
        (embedding,) = session.run(["embedding"], {"x": x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(embedding, encoder(x).numpy(), atol=1e-5, rtol=1e-5)
