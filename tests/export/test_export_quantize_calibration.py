"""Ranges from samples: closed forms, brute force, and onnxruntime's own calibrators as an independent reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from edgessl.device.requantize.arithmetic import (
    affine,
    folded,
    quantize_bias,
    quantize_weight,
    scales_for_bias,
    symmetric,
    weight_limit,
    weight_scales,
)
from edgessl.errors import ConfigError
from export.quantize import Settings
from export.quantize.calibration import BINS, entropy, histogram, mean_squared, percentile


def gaussian(n: int = 200_000, outlier: float | None = None) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(n)
    return values if outlier is None else np.append(values, [outlier, -outlier])


def of(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    span = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return histogram(values, span), span


def test_percentile_is_numpys() -> None:
    values = gaussian()
    low, high = percentile(*of(values))
    bin_width = (values.max() - values.min()) / BINS
    assert low == pytest.approx(np.quantile(values, 5e-5), abs=2 * bin_width)
    assert high == pytest.approx(np.quantile(values, 1 - 5e-5), abs=2 * bin_width)
    rectified = np.maximum(values, 0)
    low, high = percentile(*of(rectified))
    assert low == 0
    assert high == pytest.approx(np.quantile(rectified, 1 - 1e-4), abs=2 * bin_width)


def test_mse_is_the_best_clipping_found_by_brute_force() -> None:
    values = gaussian(20_000, outlier=40.0)

    def error(limit: float) -> float:
        scale, zero = affine(-limit, limit)
        levels = np.clip(np.rint(values / scale) + zero, 0, 255)
        return float(np.square((levels - zero) * scale - values).sum())

    limits = np.linspace(0.5, 40, 400)
    best = limits[int(np.argmin([error(t) for t in limits]))]
    low, high = mean_squared(*of(values))
    assert best < 39  # there is something to clip
    assert error(high) <= 1.02 * error(best)
    assert low == pytest.approx(-high)


def test_entropy_clips_outliers_about_where_onnxruntime_does() -> None:
    values = gaussian(outlier=60.0)
    low, high = entropy(*of(values))
    collector = HistogramCollector(
        "entropy", symmetric=False, num_bins=1023, num_quantized_bins=128, percentile=99.99, scenario="same"
    )
    collector.collect({"x": [values.astype(np.float32)]})
    theirs = collector.compute_collection_result()["x"]
    # both keep the Gaussian and throw most of the empty space to the outlier away
    assert 3 < high < 15
    assert 3 < float(theirs[1]) < 15
    assert low == pytest.approx(-high)


def test_entropy_keeps_a_relu_whose_values_are_mostly_zero() -> None:
    values = np.maximum(gaussian() - 1, 0)  # 84 % zeros, which cost no level
    assert entropy(*of(values))[1] > np.quantile(values, 0.999)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (-2.0, 0.0), (1.0, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_affine_levels_meet_zero_exactly_and_cover_the_range(low: float, high: float) -> None:
    scale, zero = affine(low, high)
    for value in (low, high, 0.0):
        level = np.clip(np.rint(value / scale) + zero, 0, 255)
        assert (level - zero) * scale == pytest.approx(value, abs=0.75 * float(scale))
    assert (float(zero) - float(zero)) * float(scale) == 0
    assert symmetric(low, high) * 127 == pytest.approx(max(abs(low), abs(high)) or 127)


def test_weights_use_their_levels_and_nothing_beyond() -> None:
    weight = np.random.default_rng(1).standard_normal((8, 4, 3, 3)).astype(np.float32)
    weight[3] = 0
    for bits in (4, 7, 8):
        limit = weight_limit(bits)
        scales = weight_scales(weight, 0, limit)
        levels = quantize_weight(weight, scales, 0, limit)
        most = np.abs(levels.astype(int)).max((1, 2, 3))
        assert most.tolist() == [limit if i != 3 else 0 for i in range(8)]
        assert np.abs(levels * scales.reshape(-1, 1, 1, 1) - weight).max() <= 0.501 * scales.max()


def test_a_dead_channels_bias_fits_int32() -> None:
    weight, bias = np.full((2, 1), 1e-9, np.float32), np.array([3.0, 0.0], np.float32)
    activation = np.float32(0.02)
    scales = scales_for_bias(weight_scales(weight, 0, 63), bias, activation)
    both = scales * activation
    assert quantize_bias(bias, both) * both == pytest.approx(bias, rel=1e-6)
    assert scales[1] == weight_scales(weight, 0, 63)[1]


def test_folding_is_the_batch_norm() -> None:
    rng = np.random.default_rng(2)
    weight, x = rng.standard_normal((5, 7)), rng.standard_normal((11, 7))
    gain, bias, mean, variance = rng.uniform(0.5, 2, (4, 5))
    kernel, shift = folded(weight, gain, bias, mean, variance, 1e-5)
    expected = gain * (x @ weight.T - mean) / np.sqrt(variance + 1e-5) + bias
    assert np.allclose(x @ kernel.T + shift, expected, rtol=1e-5, atol=1e-5)


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ConfigError, match="unknown calibration 'maxmin'"):
        Settings(method="maxmin")
    with pytest.raises(ConfigError, match="weight bits 9: expected 2 to 8"):
        Settings(weight_bits=9)
    assert Settings(layer_bits={"a": 32}).bits("a") == 32
