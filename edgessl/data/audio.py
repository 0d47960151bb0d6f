"""Folders of WAV files as windows of samples, or as log-mel spectrograms of these windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgessl.data.folders import folder_classes, list_files
from edgessl.data.optional import require
from edgessl.data.source import Kind, Source, checked_indices, float_samples
from edgessl.data.spectrogram import spectrograms
from edgessl.data.windows import window_count
from edgessl.errors import ConfigError, DataError


class _Wav(NamedTuple):
    path: Path
    frames: int
    channels: int
    rate: int


@dataclass(frozen=True, eq=False)
class WavSource:
    """Windows (C,T) of WAV files, values in [-1,1] of full scale; see `open_wavs`."""

    files: tuple[_Wav, ...]
    file_of: NDArray[np.int64]  # (N,) which file each window is from
    starts: NDArray[np.int64]  # (N,) its first sample at `rate`
    rate: int
    shape: tuple[int, int]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    kind: Kind = "signal"
    units: str = "full scale -1..1"
    timestamps: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timestamps", self.starts / self.rate)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Read windows, each file opened once; see Source.take."""
        chosen = checked_indices(indices, len(self))
        values = np.zeros((len(chosen), *self.shape), np.float32)
        for file in np.unique(self.file_of[chosen]):
            wav = self.files[file]
            places = np.flatnonzero(self.file_of[chosen] == file)
            try:
                with require("soundfile").SoundFile(wav.path) as stream:
                    if (stream.frames, stream.channels, stream.samplerate) != wav[1:]:
                        raise OSError(f"expected {wav}, found {stream}")
                    for place in places:
                        samples = self._read(stream, wav, int(self.starts[chosen[place]]))
                        values[place, :, : samples.shape[1]] = samples
            except (OSError, RuntimeError) as error:
                raise DataError(f"{wav.path}: changed or damaged since it was opened: {error}") from error
            float_samples(values[places], str(wav.path), chosen[places])
        return values

    def _read(self, stream: Any, wav: _Wav, start: int) -> NDArray[np.float32]:
        """Samples [start, start + T) at `rate`, (C, <= T): equal to those of the whole file resampled."""
        length = self.shape[1]
        if wav.rate == self.rate:
            stream.seek(start)
            return np.asarray(stream.read(length, dtype="float32", always_2d=True).T)
        up, down = _ratio(wav.rate, self.rate)
        # resample_poly's filter reaches 10 * max(up, down) / up samples to each side; a start that is a
        # multiple of `down` falls on the output grid.
        reach = 10 * max(up, down) // up + 2
        first = max(0, (start * down // up - reach) // down * down)
        stop = min(wav.frames, (start + length) * down // up + reach)
        stream.seek(first)
        raw = stream.read(stop - first, dtype="float64", always_2d=True).T
        resampled = require("scipy.signal").resample_poly(raw, up, down, axis=1)
        offset = start - first * up // down
        whole = _resampled_frames(wav, self.rate)
        return np.asarray(resampled[:, offset : offset + min(length, whole - start)], np.float32)


def open_wavs(
    root: str | Path,
    *,
    window: int,
    stride: int | None = None,
    rate: int | None = None,
    resample: bool = False,
    pad_short: bool = False,
) -> WavSource:
    """Open every `.wav` below `root` as windows of `window` samples, `stride` (default: window) apart.

    rate: samples per second, by default the first file's. A file of another rate is refused, or with
        `resample` converted by scipy.signal.resample_poly.
    pad_short: append zeros to a file shorter than one window instead of refusing it. What is left after a
        file's last whole window is not used.
    Labels are the sub-folders of `root` if every file lies in one; timestamps count from the start of each
    file. Only headers are read here. Raises DataError.
    """
    root = Path(root)
    paths = list_files(root, (".wav",))
    if not paths:
        raise DataError(f"{root}: found no file ending in .wav")
    files = [_header(path) for path in paths]
    rate = files[0].rate if rate is None else rate
    if rate < 1:
        raise ConfigError(f"rate is {rate}; give samples per second")
    counts = []
    for wav in files:
        if wav.channels != files[0].channels:
            raise DataError(
                f"{wav.path}: expected {files[0].channels} channels like {files[0].path.name}, found"
                f" {wav.channels}; keep files of one channel count in the folder"
            )
        if wav.rate != rate and not resample:
            raise DataError(f"{wav.path}: expected {rate} samples per second, found {wav.rate}; give resample=True")
        frames = _resampled_frames(wav, rate)
        count = window_count(frames, window, window if stride is None else stride)
        if count == 0 and not pad_short:
            raise DataError(
                f"{wav.path}: {frames} samples are less than one window of {window};"
                " give pad_short=True or a smaller window"
            )
        counts.append(max(count, 1))
    per_file = np.array(counts)
    file_of = np.repeat(np.arange(len(files)), per_file)
    number = np.arange(len(file_of)) - np.repeat(np.cumsum(per_file) - per_file, per_file)
    labels, classes = folder_classes(root, paths)
    return WavSource(
        tuple(files),
        file_of,
        number * (window if stride is None else stride),
        rate,
        (files[0].channels, window),
        None if labels is None else labels[file_of],
        classes,
    )


def open_audio(
    root: str | Path,
    *,
    window: int,
    stride: int | None = None,
    rate: int | None = None,
    resample: bool = False,
    pad_short: bool = False,
    n_mels: int | None = None,
    n_fft: int = 512,
    hop: int = 256,
) -> Source:
    """`open_wavs`, or with `n_mels` its log-mel spectrograms (C, n_mels, frames); see `LogMel`."""
    wavs = open_wavs(root, window=window, stride=stride, rate=rate, resample=resample, pad_short=pad_short)
    return spectrograms(wavs, wavs.rate, n_mels, n_fft, hop)


def _header(path: Path) -> _Wav:
    soundfile = require("soundfile")
    try:
        with path.open("rb") as stream:
            magic, size = stream.read(4), int.from_bytes(stream.read(4), "little")
        # libsndfile reads a file that was cut short without a word; the RIFF size tells.
        if magic == b"RIFF" and size < 0xFFFFFFFF and size + 8 > path.stat().st_size + 1:
            raise DataError(
                f"{path}: cut short: expected {size + 8} bytes, found {path.stat().st_size}; fetch the file again"
            )
        info = soundfile.info(str(path))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read as a WAV file ({error}); remove or repair it") from error
    if info.format not in ("WAV", "WAVEX", "RF64") or info.frames < 1:
        raise DataError(f"{path}: expected a WAV file with samples, found {info.format} of {info.frames} frames")
    return _Wav(path, info.frames, info.channels, info.samplerate)


def _ratio(source: int, target: int) -> tuple[int, int]:
    common = gcd(source, target)
    return target // common, source // common


def _resampled_frames(wav: _Wav, rate: int) -> int:
    up, down = _ratio(wav.rate, rate)
    return -(-wav.frames * up // down)
