"""Shared data that are speech at 8 kHz in mu-law bytes, decoded when taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.shared import SharedData, read_members
from edgessl.data.source import Kind, checked_indices
from edgessl.data.spectrogram import spectrograms
from edgessl.errors import ConfigError

_RATE = 8000


@dataclass(frozen=True, eq=False)
class MuLawClips:
    """The first T samples of each clip, followed by zeros where it is shorter: signals (1,T) in [-1,1]."""

    coded: NDArray[np.uint8]  # all clips one after another
    starts: NDArray[np.int64]  # (N,)
    stops: NDArray[np.int64]  # (N,)
    shape: tuple[int, int]
    labels: NDArray[np.int64]
    kind: Kind = "signal"
    units: str = "full scale -1..1"
    timestamps: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Decode clips; see Source.take."""
        chosen = checked_indices(indices, len(self))
        values = np.zeros((len(chosen), *self.shape), np.float32)
        for place, index in enumerate(chosen):
            clip = self.coded[self.starts[index] : self.stops[index]][: self.shape[1]]
            values[place, 0, : len(clip)] = decode_mulaw(clip)
        return values


def fsdd(window: int = 8000, n_mels: int | None = None, n_fft: int = 512, hop: int = 256) -> SharedData:
    """Free Spoken Digit Dataset, 6 speakers: (1,window), the start of each recording.

    A shorter recording is followed by zeros. Official split: index below 5 tests. Groups: speaker (0..5),
    index.  n_mels, n_fft, hop: log-mel spectrograms instead of samples; see `LogMel`.
    """
    if window < 1:
        raise ConfigError(f"window is {window}; give 1 or more samples")
    found = read_members("fsdd", "mulaw", "offsets", "digit", "speaker", "index")
    offsets = found["offsets"].astype(np.int64)
    clips = MuLawClips(found["mulaw"], offsets[:-1], offsets[1:], (1, window), found["digit"].astype(np.int64))
    groups = {"speaker": found["speaker"], "index": found["index"]}
    return _split(clips, found["index"] < 5, groups, tuple("0123456789"), n_mels, n_fft, hop)


def speech_commands(n_mels: int | None = None, n_fft: int = 512, hop: int = 256) -> SharedData:
    """The test set of Speech Commands v0.02 (Warden, 2018): (1,8000), 12 classes.

    That is all there is here; the speakers whose number is divisible by 5 test and the others train, so that
    no speaker is on both sides. Groups: speaker.
    n_mels, n_fft, hop: log-mel spectrograms instead of samples; see `LogMel`.
    """
    found = read_members("speech_commands_v2_test_8k", "mulaw", "label", "speaker", "classes")
    count, length = found["mulaw"].shape
    starts = np.arange(count, dtype=np.int64) * length
    labels = found["label"].astype(np.int64)
    clips = MuLawClips(found["mulaw"].reshape(-1), starts, starts + length, (1, length), labels)
    classes = tuple(found["classes"].tolist())
    groups = {"speaker": found["speaker"]}
    return _split(clips, found["speaker"] % 5 == 0, groups, classes, n_mels, n_fft, hop)


def decode_mulaw(coded: NDArray[np.uint8]) -> NDArray[np.float32]:
    """mu-law bytes to samples in [-1,1]: sign(v) (256^|v| - 1) / 255 with v = byte / 127.5 - 1."""
    v = np.arange(256) / 127.5 - 1
    table = (np.sign(v) * (256.0 ** np.abs(v) - 1) / 255).astype(np.float32)
    return table[coded]


def _split(
    clips: MuLawClips,
    test: NDArray[np.bool_],
    groups: dict[str, NDArray[Any]],
    classes: tuple[str, ...],
    n_mels: int | None,
    n_fft: int,
    hop: int,
) -> SharedData:
    sources = (
        MuLawClips(clips.coded, clips.starts[rows], clips.stops[rows], clips.shape, clips.labels[rows])
        for rows in (~test, test)
    )
    train, test_source = (spectrograms(source, _RATE, n_mels, n_fft, hop) for source in sources)
    train_groups, test_groups = ({name: values[rows] for name, values in groups.items()} for rows in (~test, test))
    return SharedData(train, test_source, classes, train_groups, test_groups)
