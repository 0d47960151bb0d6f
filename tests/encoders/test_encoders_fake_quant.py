"""Rounding in training: the same levels as the integer encoder's, gradients straight through, plain in evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgessl.device.bundle.specs import InputSpec
from edgessl.device.requantize.arithmetic import quantize_weight, weight_limit, weight_scales
from edgessl.encoders import Encoder, build_encoder
from edgessl.encoders.fake_quant import (
    fake_quantize_activation,
    fake_quantize_weight,
    quantization_aware,
    round_through,
)
from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout
from edgessl.recipe import build_step, parse_recipe
from edgessl.step import hyper_tensors


def test_gradients_go_straight_through() -> None:
    x = torch.tensor([0.4, 1.6, -2.5], requires_grad=True)
    y = round_through(x)
    assert y.tolist() == [0, 2, -2]
    (gradient,) = torch.autograd.grad((y * torch.tensor([1.0, 2.0, 3.0])).sum(), x)
    assert gradient.tolist() == [1, 2, 3]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_lie_on_the_integer_encoders_levels(bits: int) -> None:
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    scales = weight_scales(weight.numpy(), 0, weight_limit(bits))
    levels = quantize_weight(weight.numpy(), scales, 0, weight_limit(bits))
    expected = levels * scales.reshape(-1, 1, 1, 1)
    assert np.allclose(fake_quantize_weight(weight, bits).numpy(), expected, rtol=1e-5, atol=1e-7)
    assert not fake_quantize_weight(torch.zeros(2, 3), bits).any()


def test_activations_keep_zero_and_their_extremes() -> None:
    x = torch.tensor([[-1.0, 0.0, 0.3, 3.0]])
    found = fake_quantize_activation(x, 8)
    assert found[0, 1] == 0
    assert torch.allclose(found, x, atol=4 / 255)
    assert len(torch.unique(fake_quantize_activation(torch.linspace(-1, 2, 999), 4))) == 16


@pytest.mark.parametrize(("name", "shape"), [("ds_cnn_s", (1, 8, 8)), ("cnn1d", (3, 32)), ("vit", (1, 8, 8))])
def test_only_training_rounds_and_the_layout_stays(name: str, shape: tuple[int, ...]) -> None:
    plain, aware = build_encoder(name, shape), quantization_aware(build_encoder(name, shape), 4)
    assert ParameterLayout.of(plain) == ParameterLayout.of(aware)
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), aware.eval()(x))
        assert torch.equal(plain.train()(x), plain.eval()(x))  # group and layer norms
        assert not torch.equal(aware.train()(x), aware.eval()(x))


def test_a_recipe_trains_with_rounding() -> None:
    spec = InputSpec("image", (1, 8, 8), (0.5,), (0.25,), "intensity 0..1")
    values = {"encoder": {"name": "ds_cnn_s"}, "objective": {"name": "vicreg"}, "optimizer": "sgd"}
    plain = build_step(parse_recipe(values), spec)
    aware = build_step(parse_recipe({**values, "quantization": {"weight_bits": 3}}), spec)
    state, batch = plain.initial_state(), torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noise, hyper = torch.rand(plain.noise_shape(16)), hyper_tensors(plain.hyper)
    moved = [step(state, batch, noise, hyper)[0]["theta"] - state["theta"] for step in (plain, aware)]
    assert moved[1].abs().max() > 0
    assert not torch.allclose(*moved)
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.3  # about the same way


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight_bits 1: expected 2 to 8"):
        quantization_aware(build_encoder("ds_cnn_s", (1, 8, 8)), 1)
    with pytest.raises(ConfigError, match="no convolution and no linear layer"):
        quantization_aware(Encoder({"keep": nn.Identity(), "pool": nn.Flatten()}, (1, 4)))
