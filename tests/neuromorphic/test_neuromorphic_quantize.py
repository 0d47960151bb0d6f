from __future__ import annotations

import numpy as np
import pytest
import torch

from edgessl.errors import ConfigError
from neuromorphic.network import quantize_weights
from neuromorphic.quantize import (
    bias_exponent,
    decay,
    integer_bias,
    integer_weights,
    straight_through,
    weight_scale,
    weight_step,
    wrap,
)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_are_what_loihis_synapses_keep(bits: int) -> None:
    weights = torch.randn(50, 40, generator=torch.Generator().manual_seed(bits))
    exact = integer_weights(weights, weight_scale(weights, bits), bits).numpy()
    kept = quantize_weights(exact, bits, "mixed")
    np.testing.assert_array_equal(exact, kept)
    assert len(np.unique(exact)) <= 2**bits
    assert weight_step(bits) == 2 ** (8 - bits + 1)


def test_eight_bits_of_even_weights_map_the_largest_to_254() -> None:
    weights = torch.linspace(-1, 1, 255)[None]  # 127 steps to each side: these lie on the grid
    assert weight_scale(weights, 8) == pytest.approx(254.0)
    assert integer_weights(weights, 254.0, 8).tolist()[0] == list(range(-254, 255, 2))


def test_each_bit_is_worth_six_decibels() -> None:
    weights = torch.rand(200, 200, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ratio = {}
    for bits in (4, 6, 8):
        scale = weight_scale(weights, bits)
        noise = (integer_weights(weights, scale, bits) / scale - weights).square().mean()
        ratio[bits] = float(10 * torch.log10(weights.square().mean() / noise))
    assert ratio[8] - ratio[6] == pytest.approx(12.04, abs=0.7)
    assert ratio[6] - ratio[4] == pytest.approx(12.04, abs=0.9)


def test_few_bits_clip_the_outliers() -> None:
    weights = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    scale = weight_scale(weights, 4)
    assert scale > (256 - 32) / float(weights.abs().max())
    plain = (256 - 32) / float(weights.abs().max())
    errors = [(integer_weights(weights, k, 4) / k - weights).square().mean() for k in (scale, plain)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("largest", [0.0, float("nan"), float("inf")])
def test_weights_that_have_no_scale(largest: float) -> None:
    with pytest.raises(ConfigError, match="cannot be scaled"):
        weight_scale(torch.full((2, 2), largest), 8)


@pytest.mark.parametrize("largest", [1e-4, 1000.0])
def test_thresholds_out_of_range(largest: float) -> None:
    with pytest.raises(ConfigError, match=r"not in 1\.\.131071"):
        weight_scale(torch.full((2, 2), largest), 8)
    with pytest.raises(ConfigError, match="expected 2 to 8"):
        weight_step(9)


def test_biases_take_the_least_exponent_that_holds_them() -> None:
    scale = 100.0  # a bias of 1 is 6400
    assert bias_exponent(torch.tensor([0.5, -0.6]), scale) == 0
    assert bias_exponent(torch.tensor([0.5, -0.7]), scale) == 1
    assert integer_bias(torch.tensor([0.70001, -0.7]), scale).tolist() == [4480, -4480]
    assert bias_exponent(torch.tensor([81.0]), scale) == 7
    with pytest.raises(ConfigError, match=r"at most 81\.9 fit"):
        bias_exponent(torch.tensor([83.0]), scale)


def test_decay_rounds_toward_zero_and_wrap_turns_once() -> None:
    state = torch.tensor([5.0, -5.0, 8388607.0, -8388607.0], dtype=torch.float64)
    keep = torch.tensor(1 - 3 / 4096, dtype=torch.float64)
    assert decay(state, keep).tolist() == [4, -4, 8382463, -8382463]  # 8388607 * 4093 >> 12
    top = float(1 << 23)
    assert wrap(torch.tensor([top, top + 64, -top, -top - 64], dtype=torch.float64)).tolist() == [
        top, -top + 64, top, top - 64,
    ]  # fmt: skip


def test_straight_through_is_exact_forward_and_identity_backward() -> None:
    value = torch.tensor([0.1, 0.2], requires_grad=True)
    out = straight_through(value * 3, torch.tensor([7.0, 9.0]))
    out.sum().backward()
    assert out.tolist() == [7, 9]
    assert value.grad is not None
    assert value.grad.tolist() == [3, 3]
