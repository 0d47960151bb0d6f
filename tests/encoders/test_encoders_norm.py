"""Norms: batch norm against torch's own, statistics, folding, and independence from the batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgessl.encoders import (
    BatchNorm,
    Encoder,
    build_encoder,
    collect_batch_statistics,
    fold_batch_norm,
    make_norm,
)
from edgessl.encoders.norm import ConvNorm
from edgessl.errors import ConfigError, InputError

TORCH_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
CONVOLUTIONAL = [
    ("ds_cnn_s", (1, 16, 16)),
    ("ds_cnn_m", (1, 16, 16)),
    ("resnet8", (3, 16, 16)),
    ("resnet18", (1, 8, 8)),
    ("cnn1d", (6, 64)),
]


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Gives every norm weights and running statistics that are not the neutral ones."""
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, BatchNorm | nn.GroupNorm):
            nn.init.uniform_(child.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(child.bias, -0.5, 0.5, generator=generator)
        if isinstance(child, BatchNorm):
            child.running_mean.uniform_(-0.5, 0.5, generator=generator)
            child.running_var.uniform_(0.5, 2.0, generator=generator)


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[BatchNorm, nn.Module, Tensor]:
    ours = BatchNorm(shape[1]).double()
    randomize(ours, seed)
    theirs = TORCH_NORM[len(shape)](shape[1], momentum=1.0).double()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1
    return ours, theirs, x


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(2, 5),
    channels=st.integers(1, 6),
    rest=st.lists(st.integers(1, 4), max_size=2),
    seed=st.integers(0, 99),
)
def test_batch_norm_is_torchs(batch: int, channels: int, rest: list[int], seed: int) -> None:
    ours, theirs, x = pair((batch, channels, *rest), seed)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=1e-12, rtol=1e-12)
    assert collect_batch_statistics(ours) == {}

    torch.testing.assert_close(ours.train()(x), theirs.train()(x), atol=1e-9, rtol=1e-9)
    statistics = collect_batch_statistics(ours)
    # with momentum 1, torch's running statistics are those of the batch
    torch.testing.assert_close(statistics["running_mean"], theirs.running_mean, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(statistics["running_var"], theirs.running_var, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 5), (2, 2, 3, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gradients(shape: tuple[int, ...], training: bool) -> None:
    norm, _, x = pair(shape)
    norm.train(training)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))
        return output

    inputs = (x, norm.weight.detach().clone(), norm.bias.detach().clone())
    assert torch.autograd.gradcheck(function, tuple(tensor.requires_grad_() for tensor in inputs))


def test_batch_norm_never_moves_its_buffers() -> None:
    norm, _, x = pair((4, 3, 5))
    before = copy.deepcopy(norm.state_dict())
    assert list(before) == ["weight", "bias", "running_mean", "running_var"]
    norm.train()(x)
    norm.eval()(x)
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


def test_batch_norm_of_bfloat16_counts_in_float32() -> None:
    norm = BatchNorm(4)
    x = (torch.randn(64, 4, 8, generator=torch.Generator().manual_seed(0)) + 30).bfloat16()
    output = norm(x)
    assert output.dtype == torch.bfloat16
    statistics = collect_batch_statistics(norm)
    exact = x.double()
    expected = {"running_mean": exact.mean((0, 2)), "running_var": exact.transpose(0, 1).flatten(1).var(1)}
    for key, value in statistics.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[key], atol=0, rtol=1e-4)
    assert norm.eval()(x).dtype == torch.bfloat16


def test_batch_norm_of_a_single_value() -> None:
    norm = BatchNorm(3)
    with pytest.raises(InputError, match=r"found 1 in \(1, 3\)"):
        norm(torch.rand(1, 3))
    assert norm.eval()(torch.rand(1, 3)).shape == (1, 3)


def test_statistics_are_named_like_the_buffers_and_taken_once() -> None:
    encoder = build_encoder("resnet8", (1, 16, 16), norm="batch")
    encoder(torch.rand(4, 1, 16, 16, requires_grad=True))
    statistics = collect_batch_statistics(encoder)
    buffers = {path: b for path, b in encoder.named_buffers() if not path.startswith("normalize")}
    assert statistics.keys() == buffers.keys()
    assert all(statistics[path].shape == buffer.shape for path, buffer in buffers.items())
    assert not any(value.requires_grad for value in statistics.values())
    assert collect_batch_statistics(encoder) == {}


def test_statistics_leave_a_functional_transform_as_auxiliary_output() -> None:
    encoder = build_encoder("ds_cnn_s", (1, 16, 16), norm="batch")
    parameters: dict[str, Tensor] = dict(encoder.named_parameters())
    x = torch.rand(4, 1, 16, 16)

    def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        embedding = torch.func.functional_call(encoder, parameters, (x,))
        return embedding.square().mean(), collect_batch_statistics(encoder)

    gradients, statistics = torch.func.grad(loss, has_aux=True)(parameters)
    assert gradients.keys() == parameters.keys()
    stem: Any = encoder.stages[0]
    mapped = stem.conv(encoder.normalize(x)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics["stages.stem.norm.running_mean"], mapped.mean(1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(statistics["stages.stem.norm.running_var"], mapped.var(1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "shape"), CONVOLUTIONAL)
def test_folding(name: str, shape: tuple[int, ...]) -> None:
    encoder = build_encoder(name, shape, mean=[0.5] * shape[0], std=[0.25] * shape[0], norm="batch").eval()
    randomize(encoder)
    before = copy.deepcopy(encoder.state_dict())
    folded = fold_batch_norm(encoder.train())
    assert isinstance(folded, Encoder)
    assert not folded.training
    assert not any(isinstance(module, BatchNorm) for module in folded.modules())
    assert encoder.training
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())

    x = torch.rand(4, *shape)
    expected = encoder.eval()(x)
    assert expected.abs().mean() > 0.01
    torch.testing.assert_close(folded(x), expected, atol=1e-4, rtol=1e-4)  # resnet18 adds up rounding over 20 layers
    torch.testing.assert_close(folded.double()(x.double()), encoder.double()(x.double()), atol=1e-5, rtol=1e-5)


def test_folding_a_backbone() -> None:
    encoder = build_encoder("resnet8", (1, 16, 16), norm="batch").eval()
    randomize(encoder)
    backbone = encoder.split("block2")[0]
    x = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(fold_batch_norm(backbone)(x), backbone(x), atol=1e-5, rtol=1e-5)


def test_folding_leaves_group_norm_alone() -> None:
    encoder = build_encoder("resnet8", (1, 16, 16))
    folded = fold_batch_norm(encoder)
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(folded(x), encoder(x))
    assert folded.state_dict().keys() == encoder.state_dict().keys()
    assert folded is not encoder


@pytest.mark.parametrize(("name", "shape"), [*CONVOLUTIONAL, ("vit", (1, 16, 16))])
def test_a_sample_does_not_see_its_batch(name: str, shape: tuple[int, ...]) -> None:
    encoder = build_encoder(name, shape)
    randomize(encoder)
    x = torch.rand(3, *shape)
    together = encoder(x)
    alone = torch.cat([encoder(sample[None]) for sample in x])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-5)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(x)[0].sum(), x)
    assert gradient[0].abs().sum() > 0
    assert torch.equal(gradient[1:], torch.zeros_like(gradient[1:]))


def test_batch_norm_sample_does_see_its_batch() -> None:
    encoder = build_encoder("resnet8", (1, 16, 16), norm="batch")
    x = torch.rand(3, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(x)[0].sum(), x)
    assert gradient[1:].abs().sum() > 0


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (64, 4), (6, 2), (7, 1), (2, 2)])
def test_groups(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_unknown_norm() -> None:
    with pytest.raises(ConfigError, match="unknown norm 'instance'"):
        make_norm("instance", 16)


def test_conv_norm_without_relu() -> None:
    module = ConvNorm(nn.Conv1d(2, 4, 3, bias=False), "group", relu=False)
    with_relu = copy.deepcopy(module)
    with_relu.relu = True
    x = torch.randn(2, 2, 9)
    assert (module(x) < 0).any()
    assert torch.equal(with_relu(x), module(x).clamp(min=0))
