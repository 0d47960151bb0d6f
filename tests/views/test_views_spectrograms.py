"""Spectrogram masks and gain against plain loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.errors import ConfigError, InputError
from edgessl.views.spectrograms import FrequencyMask, Gain, frequency_mask, gain, time_mask

unit = st.floats(0, 1, exclude_max=True, width=32)


@pytest.mark.parametrize(("mask", "axis"), [(frequency_mask, 2), (time_mask, 3)])
@settings(deadline=None)
@given(length_noise=unit, position_noise=unit, fraction=st.floats(0, 1))
def test_masks_equal_a_loop(mask, axis, length_noise, position_noise, fraction):
    x = np.random.default_rng(0).normal(size=(1, 2, 9, 13)).astype(np.float32)
    y = mask(torch.from_numpy(x), torch.tensor([[length_noise, position_noise]]), fraction=fraction)
    steps = x.shape[axis]
    longest = int(fraction * steps)
    length = math.floor(np.float32(longest + 1) * np.float32(length_noise))
    start = math.floor(np.float32(steps - length + 1) * np.float32(position_noise))
    assert length <= longest
    assert start + length <= steps
    expected = x.copy()
    for channel in range(2):
        for i in range(start, start + length):
            band = expected[0, channel, i] if axis == 2 else expected[0, channel, :, i]
            band[:] = x[0, channel].mean()
    np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-6)


def test_gain_shifts_by_standard_deviations(draw):
    x = 40 * draw(3, 1, 5, 7, dtype=torch.float64) - 60
    u = torch.tensor([[0.0], [0.75], [0.5]], dtype=torch.float64)
    expected = x.numpy() + np.array([-0.6, 0.3, 0.0]).reshape(3, 1, 1, 1) * x.numpy().std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(gain(x, u, strength=0.6).numpy(), expected, rtol=0, atol=1e-10)


def test_signals_are_refused():
    for transform in (FrequencyMask(), Gain()):
        with pytest.raises(InputError, match=r"\(C, F, T\)"):
            transform.width((6, 128))


@pytest.mark.parametrize(
    ("make", "option"),
    [(lambda: FrequencyMask(fraction=-1), "fraction"), (lambda: Gain(strength="loud"), "strength")],
)
def test_options_out_of_range(make, option):
    with pytest.raises(ConfigError, match=f"option '{option}'"):
        make()
