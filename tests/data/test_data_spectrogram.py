"""Log-mel spectrograms against closed forms and scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.data.arrays import array_source
from edgessl.data.source import Source
from edgessl.data.spectrogram import (
    LogMel,
    SpectrogramSource,
    hz_to_mel,
    mel_filterbank,
    mel_to_hz,
    power_frames,
    spectrograms,
)
from edgessl.errors import ConfigError


def test_the_mel_scale_is_htks():
    # 1000 Hz is 1000 mel to within the rounding of the constants 2595 and 700.
    assert hz_to_mel(1000.0) == pytest.approx(1000.0, abs=0.02)
    assert hz_to_mel(0.0) == 0
    assert hz_to_mel(700.0) == pytest.approx(2595 * np.log10(2))


@given(st.floats(0, 24000))
@settings(max_examples=50, deadline=None)
def test_mel_to_hz_is_the_inverse(hz):
    assert mel_to_hz(hz_to_mel(hz)) == pytest.approx(hz, abs=1e-6)


def test_filters_are_triangles_that_sum_to_one_between_the_outer_peaks():
    n_mels, n_fft, rate, fmin, fmax = 20, 1024, 16000, 50.0, 7000.0
    bank = mel_filterbank(n_mels, n_fft, rate, fmin, fmax)
    assert bank.shape == (n_mels, 513)
    bins = np.arange(513) * rate / n_fft
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin), hz_to_mel(fmax), n_mels + 2))
    for row, low, peak, high in zip(bank, edges, edges[1:], edges[2:], strict=False):
        np.testing.assert_allclose(row, np.interp(bins, [low, peak, high], [0, 1, 0], 0, 0), atol=1e-12)
    inside = (bins >= edges[1]) & (bins <= edges[-2])
    np.testing.assert_allclose(bank[:, inside].sum(axis=0), 1.0)
    assert bank[:, (bins <= fmin) | (bins >= fmax)].max() < 1e-12


def test_a_filter_without_a_bin_and_a_range_beyond_nyquist_are_refused():
    with pytest.raises(ConfigError, match="holds no frequency of a 64-point"):
        mel_filterbank(40, 64, 16000, 0, 8000)
    with pytest.raises(ConfigError, match=r"0 <= fmin < fmax <= 8000\.0"):
        mel_filterbank(10, 512, 16000, 0, 9000)
    with pytest.raises(ConfigError, match="expected n_fft"):
        LogMel(16000, hop=0)


def test_power_frames_equal_scipys_stft():
    signal = pytest.importorskip("scipy.signal")
    x = np.random.default_rng(0).normal(size=(2, 1000))
    found = power_frames(x, 256, 100)
    _, _, reference = signal.stft(
        x, window="hann", nperseg=256, noverlap=156, boundary=None, padded=False, return_onesided=True
    )
    assert found.shape == (2, 129, 8) == reference.shape
    np.testing.assert_allclose(found, np.abs(reference) ** 2, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize(("k", "amplitude"), [(10, 1.0), (37, 0.3)])
def test_a_sine_on_a_bin_has_a_quarter_of_its_squared_amplitude(k, amplitude):
    x = amplitude * np.sin(2 * np.pi * k * np.arange(512) / 128 + 0.7)
    power = power_frames(x, 128, 64)
    np.testing.assert_allclose(power[k], amplitude**2 / 4, rtol=1e-12)
    np.testing.assert_allclose(power[[k - 1, k + 1]], amplitude**2 / 16, rtol=1e-12)  # Hann's side bins
    assert power[: k - 1].max() < 1e-25


def test_log_mel_of_silence_is_the_log_of_the_floor_and_of_a_sine_is_exact():
    settings_ = LogMel(8000, n_mels=20, n_fft=256, hop=128, floor=1e-8)
    np.testing.assert_array_equal(settings_(np.zeros((1, 1024))), np.float32(np.log(1e-8)))
    x = np.sin(2 * np.pi * 40 * np.arange(1024) / 256)
    found = settings_(x[None])
    assert (found.shape, found.dtype) == ((1, 20, settings_.frames(1024)), np.float32)
    bank = settings_.filters()
    expected = np.log(bank[:, 40] / 4 + (bank[:, 39] + bank[:, 41]) / 16 + 1e-8)
    np.testing.assert_allclose(found[0], np.repeat(expected[:, None], 7, axis=1), rtol=1e-6)


@given(extra=st.integers(0, 3000), n_fft=st.sampled_from([256, 400]), hop=st.integers(1, 500))
@settings(max_examples=40, deadline=None)
def test_frames_counts_what_is_computed(extra, n_fft, hop):
    chosen = LogMel(8000, n_mels=10, n_fft=n_fft, hop=hop)
    samples = n_fft + extra
    assert chosen(np.zeros(samples)).shape == (10, chosen.frames(samples))
    assert n_fft + (chosen.frames(samples) - 1) * hop <= samples < n_fft + chosen.frames(samples) * hop


def test_a_spectrogram_source_transforms_what_it_takes():
    x = np.random.default_rng(0).normal(size=(5, 2, 2000))
    signals = array_source(x, kind="signal", layout="channels_first", labels=np.arange(5))
    source = SpectrogramSource(signals, LogMel(16000))
    assert isinstance(source, Source)
    assert (source.kind, source.shape, len(source)) == ("spectrogram", (2, 40, 6), 5)
    assert source.labels.tolist() == [0, 1, 2, 3, 4]
    assert source.timestamps is None
    taken = source.take(np.array([4, 1]))
    assert (taken.dtype, taken.flags.c_contiguous, taken.shape) == (np.float32, True, (2, 2, 40, 6))
    np.testing.assert_array_equal(taken[1], LogMel(16000)(signals.take(np.array([1]))[0]))


def test_spectrograms_of_images_or_of_too_short_signals_are_refused():
    with pytest.raises(ConfigError, match="kind 'image'"):
        SpectrogramSource(array_source(np.zeros((2, 8, 8), np.uint8)), LogMel(8000))
    with pytest.raises(ConfigError, match="511 samples hold no frame of n_fft=512"):
        spectrograms(array_source(np.zeros((2, 511))), 16000, 40, 512, 256)
    signals = array_source(np.zeros((2, 511)))
    assert spectrograms(signals, 16000, None, 512, 256) is signals
