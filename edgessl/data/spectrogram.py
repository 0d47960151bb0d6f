"""Log-mel spectrograms in numpy: HTK mel scale, triangular filters, Hann window, no padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import Kind, Source
from edgessl.errors import ConfigError


def hz_to_mel(hz: NDArray[Any] | float) -> NDArray[np.float64]:
    """HTK's mel scale, 2595 log10(1 + f / 700) (Young et al., The HTK Book)."""
    return 2595.0 * np.log10(1.0 + np.asarray(hz, np.float64) / 700.0)


def mel_to_hz(mel: NDArray[Any] | float) -> NDArray[np.float64]:
    """The inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (np.asarray(mel, np.float64) / 2595.0) - 1.0)


def mel_filterbank(n_mels: int, n_fft: int, rate: float, fmin: float, fmax: float) -> NDArray[np.float64]:
    """Triangles of height 1, evenly spaced in mel from fmin to fmax hertz: (n_mels, n_fft // 2 + 1).

    ConfigError if the range is not within 0..rate/2 or if a triangle would fall between two bins.
    """
    if not 0 <= fmin < fmax <= rate / 2 or n_mels < 1:
        raise ConfigError(f"{n_mels} mel bands from {fmin} to {fmax} Hz; expected 0 <= fmin < fmax <= {rate / 2}")
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin), hz_to_mel(fmax), n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * (rate / n_fft)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0.0, np.minimum(rising, falling))
    empty = np.flatnonzero(bank.max(axis=1) < 1e-6)
    if len(empty):
        raise ConfigError(
            f"mel band {empty[0]} of {n_mels} holds no frequency of a {n_fft}-point transform at {rate:g} Hz;"
            " give fewer n_mels or a larger n_fft"
        )
    return bank


def power_frames(x: NDArray[Any], n_fft: int, hop: int) -> NDArray[np.float64]:
    """Power spectra of x (..., T): float64 (..., n_fft // 2 + 1, frames), frames = 1 + (T - n_fft) // hop.

    Periodic Hann window; power is |X|^2 / sum(window)^2, so a sine of amplitude a on a bin gives a^2 / 4.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft, axis=-1)[..., ::hop, :]
    spectrum = np.fft.rfft(frames * window, axis=-1)
    return np.swapaxes(np.abs(spectrum) ** 2, -1, -2) / window.sum() ** 2


@dataclass(frozen=True)
class LogMel:
    """Settings of a log-mel spectrogram; called on x (..., T) it gives float32 (..., n_mels, frames).

    Values are ln(mel-weighted power + floor). n_fft and hop are in samples, fmin and fmax in hertz; fmax is
    rate / 2 by default.
    """

    rate: float
    n_mels: int = 40
    n_fft: int = 512
    hop: int = 256
    fmin: float = 20.0
    fmax: float | None = None
    floor: float = 1e-8

    def __post_init__(self) -> None:
        if self.n_fft < 2 or self.hop < 1 or not self.floor > 0:
            raise ConfigError(f"expected n_fft >= 2, hop >= 1 and floor > 0, found {self}")
        self.filters()

    def filters(self) -> NDArray[np.float64]:
        """The filterbank, (n_mels, n_fft // 2 + 1)."""
        fmax = self.rate / 2 if self.fmax is None else self.fmax
        return mel_filterbank(self.n_mels, self.n_fft, self.rate, self.fmin, fmax)

    def frames(self, samples: int) -> int:
        """Frames that `samples` samples give; ConfigError if not one."""
        if samples < self.n_fft:
            raise ConfigError(f"{samples} samples hold no frame of n_fft={self.n_fft}; give a larger window")
        return 1 + (samples - self.n_fft) // self.hop

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The spectrogram of x (..., T), T >= n_fft: float32 (..., n_mels, frames)."""
        power = power_frames(x.astype(np.float64), self.n_fft, self.hop)
        return np.log(self.filters() @ power + self.floor).astype(np.float32)


@dataclass(frozen=True, eq=False)
class SpectrogramSource:
    """The log-mel spectrograms (C, n_mels, frames) of a source of signals (C,T), computed when taken."""

    source: Source
    settings: LogMel
    kind: Kind = "spectrogram"
    units: str = "ln power"

    def __post_init__(self) -> None:
        if self.source.kind != "signal":
            raise ConfigError(f"spectrograms are taken of signals, not of a source of kind {self.source.kind!r}")
        self.settings.frames(self.source.shape[-1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, n_mels, frames)."""
        channels, samples = self.source.shape
        return channels, self.settings.n_mels, self.settings.frames(samples)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Those of the signals."""
        return self.source.labels

    @property
    def timestamps(self) -> NDArray[np.float64] | None:
        """Those of the signals."""
        return self.source.timestamps

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Read signals and transform them; see Source.take."""
        return np.ascontiguousarray(self.settings(self.source.take(indices)))


def spectrograms(source: Source, rate: float, n_mels: int | None, n_fft: int, hop: int) -> Source:
    """The log-mel spectrograms of `source`, or with n_mels None the source itself."""
    if n_mels is None:
        return source
    return SpectrogramSource(source, LogMel(rate, n_mels=n_mels, n_fft=n_fft, hop=hop))
