"""Windows of a token sequence: text as characters or bytes, or any other series of small whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import Kind, Source, Subset, checked_indices
from edgessl.data.windows import window_count
from edgessl.errors import ConfigError, DataError


@runtime_checkable
class TokenSource(Source, Protocol):
    """A source of kind "tokens": samples (1,L) of ids from 0 to below `vocabulary`, as float32."""

    @property
    def vocabulary(self) -> int:
        """How many different ids there are, used or not."""
        ...


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Windows (1,L) of a sequence of ids; see `token_windows`, which checks it. `symbols`: the ids' names, if any."""

    ids: NDArray[Any]  # (rows,) in the stored dtype
    shape: tuple[int, int]
    stride: int
    vocabulary: int
    units: str
    symbols: tuple[str, ...] = ()
    kind: Kind = "tokens"
    labels: NDArray[np.int64] | None = None
    timestamps: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return window_count(len(self.ids), self.shape[1], self.stride)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Read windows; see Source.take."""
        chosen = checked_indices(indices, len(self))
        rows = self.stride * chosen[:, None] + np.arange(self.shape[1])
        return self.ids[rows].astype(np.float32)[:, None]


def token_windows(
    ids: NDArray[Any],
    *,
    window: int,
    vocabulary: int,
    stride: int | None = None,
    symbols: tuple[str, ...] = (),
    name: str = "tokens",
) -> TokenWindows:
    """Cut `ids` (rows,), integers from 0 to below `vocabulary`, into windows; by default they do not overlap.

    Raises:
        ConfigError: window, stride or vocabulary out of range. DataError: other numbers, or no window fits.
    """
    stride = window if stride is None else stride
    count = window_count(len(ids), window, stride)
    if not 2 <= vocabulary <= 1 << 24:
        raise ConfigError(f"{name}: vocabulary is {vocabulary}; give 2 to {1 << 24}, which float32 holds exactly")
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or count == 0:
        raise DataError(
            f"{name}: found {ids.dtype} of shape {ids.shape}; expected {window} or more integer ids (rows,)"
        )
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise DataError(f"{name}: ids run from {ids.min()} to {ids.max()}; expected 0 to {vocabulary - 1}")
    return TokenWindows(ids, (1, window), stride, vocabulary, f"ids of {vocabulary} symbols", symbols)


def open_text(path: str | Path, *, window: int = 64, stride: int | None = None) -> TokenWindows:
    """A text file as windows of its bytes: vocabulary 256, whatever the language or the encoding."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return token_windows(np.frombuffer(content, np.uint8), window=window, vocabulary=256, stride=stride, name=str(path))


def vocabulary_of(source: Source) -> int:
    """The vocabulary of a source of tokens, also of a subset of one; 0 for every other kind."""
    while isinstance(source, Subset):
        source = source.source
    if source.kind != "tokens":
        return 0
    if not isinstance(source, TokenSource):
        raise DataError(f"a source of tokens has to say its vocabulary; {type(source).__name__} has no such attribute")
    return source.vocabulary
