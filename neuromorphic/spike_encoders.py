"""Samples as spikes: pixels, signals, sounds and events become `(N, T, n)` uint8 arrays of 0 and 1.

An encoder is a frozen dataclass, called on samples `(N, *shape)` float32 and one random generator per sample, so that a
sample's spikes do not depend on the batch it is in. Rising and falling are two channels (a chip's synapse reads a
spike of -1 as a spike), ON first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgessl.data.optional import call_with_options
from edgessl.errors import ConfigError, InputError

Array = np.ndarray[Any, np.dtype[Any]]
Generators = Sequence[np.random.Generator]


@dataclass(frozen=True)
class RegularRate:
    """Pixels in [0, 1] as evenly spaced spikes: `floor(phase + t p gain)` of them have come after t steps.

    The count is that of the value to within one spike, at any number of steps (a Bernoulli code needs four times the
    steps for half the noise). The phases are fixed numbers per channel: otherwise all pixels would fire at once.
    """

    steps: int = 12
    gain: float = 0.5
    name: ClassVar[str] = "regular"

    def __post_init__(self) -> None:
        _check_rate(self.name, self.steps, self.gain)

    def shape(self, sample: tuple[int, ...]) -> tuple[int, int]:
        """(T, n)."""
        return self.steps, math.prod(sample)

    def __call__(self, x: Array, rngs: Generators) -> Array:
        """Spikes of samples `(N, *shape)` in [0, 1]."""
        rate = _pixels(self.name, x) * self.gain
        phase = np.random.default_rng(0).random(rate.shape[1])
        count = np.floor(phase + np.arange(self.steps + 1)[:, None] * rate[:, None])
        return np.diff(count, axis=1).astype(np.uint8)


@dataclass(frozen=True)
class BernoulliRate:
    """Pixels in [0, 1] as independent spikes of probability `p gain` at each step."""

    steps: int = 12
    gain: float = 0.5
    name: ClassVar[str] = "bernoulli"

    def __post_init__(self) -> None:
        _check_rate(self.name, self.steps, self.gain)

    def shape(self, sample: tuple[int, ...]) -> tuple[int, int]:
        """(T, n)."""
        return self.steps, math.prod(sample)

    def __call__(self, x: Array, rngs: Generators) -> Array:
        """Spikes of samples `(N, *shape)` in [0, 1]."""
        rate = _pixels(self.name, x) * self.gain
        size = (self.steps, rate.shape[1])
        return np.stack([rng.random(size) < p for p, rng in zip(rate, rngs, strict=True)]).astype(np.uint8)


@dataclass(frozen=True)
class Latency:
    """Pixels in [0, 1] as one spike each, the brighter the earlier: at step `round((1 - p) (T - 1))`.

    Pixels of `dark` or less send none.

    Time to first spike (Thorpe and Gautrais 1998).
    """

    steps: int = 12
    dark: float = 0.05
    name: ClassVar[str] = "latency"

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.dark < 1:
            raise ConfigError(
                f"{self.name}: steps {self.steps}, dark {self.dark}; expected 1 or more, and 0 <= dark < 1"
            )

    def shape(self, sample: tuple[int, ...]) -> tuple[int, int]:
        """(T, n)."""
        return self.steps, math.prod(sample)

    def __call__(self, x: Array, rngs: Generators) -> Array:
        """Spikes of samples `(N, *shape)` in [0, 1]."""
        value = _pixels(self.name, x)
        when = np.where(value > self.dark, np.round((1 - value) * (self.steps - 1)), -1)
        return (np.arange(self.steps)[:, None] == when[:, None]).astype(np.uint8)


@dataclass(frozen=True)
class LevelCrossing:
    """Signals and spectrograms as send-on-delta spikes: ON where a channel rose by `threshold`, OFF where it fell.

    A channel keeps the last level it sent; a step sends at most one spike and moves the level by one threshold, so that
    after a jump the code catches up. Samples are (C, T) or (C, F, T) in any unit, normalised per channel by `scale`
    ("sample": each sample's own standard deviation; "none": as they are); `start` is the first level ("first": the
    first value, nothing is sent of the absolute level; "zero": 0, as silence). `every` takes each n-th step.
    """

    threshold: float = 0.5
    scale: str = "sample"
    start: str = "first"
    every: int = 1
    name: ClassVar[str] = "level_crossing"

    def __post_init__(self) -> None:
        if not self.threshold > 0 or self.every < 1:
            raise ConfigError(
                f"{self.name}: threshold {self.threshold}, every {self.every}; expected > 0 and 1 or more"
            )
        if self.scale not in ("sample", "none") or self.start not in ("first", "zero"):
            raise ConfigError(
                f"{self.name}: scale {self.scale!r}, start {self.start!r}; expected sample or none, first or zero"
            )

    def shape(self, sample: tuple[int, ...]) -> tuple[int, int]:
        """(T, n): two channels per channel of the sample."""
        if len(sample) < 2:
            raise ConfigError(f"{self.name}: samples of shape {sample}; expected (C, T) or (C, F, T)")
        return -(-sample[-1] // self.every), 2 * math.prod(sample[:-1])

    def __call__(self, x: Array, rngs: Generators) -> Array:
        """Spikes `(N, T, 2 n)` of samples `(N, ..., T)`, ON channels first."""
        series = x.reshape(len(x), -1, x.shape[-1])[..., :: self.every].transpose(2, 0, 1).astype(np.float64)
        if self.scale == "sample":
            series = (series - series.mean((0, 2), keepdims=True)) / np.maximum(series.std((0, 2), keepdims=True), 1e-9)
        level = series[0].copy() if self.start == "first" else np.zeros_like(series[0])
        out = np.zeros((len(series), *level.shape, 2), np.uint8)
        for t, value in enumerate(series):
            rose, fell = value >= level + self.threshold, value <= level - self.threshold
            out[t, ..., 0], out[t, ..., 1] = rose, fell
            level += self.threshold * (rose.astype(np.float64) - fell)
        return np.concatenate([out[..., 0], out[..., 1]], axis=2).transpose(1, 0, 2)


@dataclass(frozen=True)
class MelCrossing:
    """Sound as spikes: level crossings of log-mels (C, F, frames), after Speech2Spikes (Stewart et al. 2023).

    The spectrogram's own floor is silence, so that the absolute level arrives as a burst of ON spikes; every frame
    lasts `repeat` steps, in which the code can catch up with it.
    """

    threshold: float = 1.0
    repeat: int = 2
    name: ClassVar[str] = "mel_crossing"

    def __post_init__(self) -> None:
        if not self.threshold > 0 or self.repeat < 1:
            raise ConfigError(f"{self.name}: threshold {self.threshold}, repeat {self.repeat}; expected > 0, 1 or more")

    def shape(self, sample: tuple[int, ...]) -> tuple[int, int]:
        """(T, n)."""
        if len(sample) != 3:
            raise ConfigError(f"{self.name}: samples of shape {sample}; expected a spectrogram (C, F, frames)")
        return sample[2] * self.repeat, 2 * sample[0] * sample[1]

    def __call__(self, x: Array, rngs: Generators) -> Array:
        """Spikes `(N, frames repeat, 2 C F)` of log-mels `(N, C, F, frames)`."""
        height = np.repeat(x - x.min((1, 2, 3), keepdims=True), self.repeat, axis=-1)
        return LevelCrossing(self.threshold, scale="none", start="zero")(height, rngs)


@dataclass(frozen=True)
class Signed:
    """Spikes that are there already, {-1, 0, 1} in samples (C, T), as ON and OFF channels.

    Each `every` steps become one, with a spike where one of them had one.
    """

    every: int = 1
    name: ClassVar[str] = "signed"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"{self.name}: every is {self.every}; expected 1 or more")

    def shape(self, sample: tuple[int, ...]) -> tuple[int, int]:
        """(T, n)."""
        if len(sample) != 2:
            raise ConfigError(f"{self.name}: samples of shape {sample}; expected (C, T)")
        return sample[1] // self.every, 2 * sample[0]

    def __call__(self, x: Array, rngs: Generators) -> Array:
        """Spikes `(N, T // every, 2 C)` of samples `(N, C, T)`."""
        if not np.isin(x, (-1, 0, 1)).all():
            raise InputError(f"{self.name}: values other than -1, 0 and 1; use level_crossing for signals")
        steps = x.shape[2] // self.every
        grouped = x[:, :, : steps * self.every].reshape(*x.shape[:2], steps, self.every)
        both = np.concatenate([(grouped == 1).any(3), (grouped == -1).any(3)], axis=1)
        return both.transpose(0, 2, 1).astype(np.uint8)


Encoder = RegularRate | BernoulliRate | Latency | LevelCrossing | MelCrossing | Signed
SPIKE_ENCODERS: dict[str, type[Encoder]] = {
    c.name: c for c in (RegularRate, BernoulliRate, Latency, LevelCrossing, MelCrossing, Signed)
}
DEFAULT_ENCODERS = {"image": RegularRate.name, "signal": LevelCrossing.name, "spectrogram": MelCrossing.name}


def build_encoder(name: str, options: Mapping[str, Any]) -> Encoder:
    """The spike encoder `name` with `options`.

    Raises:
        ConfigError: unknown name or option, or a value out of range.
    """
    if name not in SPIKE_ENCODERS:
        raise ConfigError(f"spike encoder {name!r}; expected one of {', '.join(SPIKE_ENCODERS)}")
    kind: Callable[..., Encoder] = SPIKE_ENCODERS[name]
    built = call_with_options(kind, f"spike encoder {name!r}", **options)
    return built


def _pixels(name: str, x: Array) -> Array:
    """Samples as rows of values in [0, 1]."""
    rows = x.reshape(len(x), -1).astype(np.float64)
    if rows.size and not (rows.min() >= 0 and rows.max() <= 1):
        raise InputError(f"{name}: values from {rows.min():g} to {rows.max():g}; expected pixels in [0, 1]")
    return rows


def _check_rate(name: str, steps: int, gain: float) -> None:
    if steps < 1 or not 0 < gain <= 1:
        raise ConfigError(f"{name}: steps {steps}, gain {gain}; expected 1 or more, and 0 < gain <= 1")
