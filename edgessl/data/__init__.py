"""Unlabelled data, read sample by sample: arrays, images, audio, tables, text, pairs and the shared data sets.

Importing this package loads no reader and no numpy; each name below is imported when it is first used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgessl import on_first_use
from edgessl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from edgessl.data.arrays import ArraySource, array_source, open_array
    from edgessl.data.audio import WavSource, open_audio, open_wavs
    from edgessl.data.digits import open_digits
    from edgessl.data.idx import open_idx
    from edgessl.data.images import ImageFolder, open_images
    from edgessl.data.pairs import PairedSource, sides
    from edgessl.data.series import WindowSource, windows_of
    from edgessl.data.shared import SharedData, load_shared, load_tokens
    from edgessl.data.source import (
        Source,
        Subset,
        batches,
        channel_statistics,
        content_hash,
        epoch_order,
    )
    from edgessl.data.spectrogram import LogMel, SpectrogramSource
    from edgessl.data.tables import open_table
    from edgessl.data.tokens import TokenSource, TokenWindows, open_text, token_windows, vocabulary_of

_HOMES = {
    "ArraySource": "arrays", "array_source": "arrays", "open_array": "arrays",
    "WavSource": "audio", "open_audio": "audio", "open_wavs": "audio",
    "open_digits": "digits",
    "open_idx": "idx",
    "ImageFolder": "images", "open_images": "images",
    "WindowSource": "series", "windows_of": "series",
    "SharedData": "shared", "load_shared": "shared", "load_tokens": "shared",
    "Source": "source", "Subset": "source", "batches": "source", "channel_statistics": "source",
    "content_hash": "source", "epoch_order": "source",
    "LogMel": "spectrogram", "SpectrogramSource": "spectrogram",
    "open_table": "tables",
    "PairedSource": "pairs", "sides": "pairs",
    "TokenSource": "tokens", "TokenWindows": "tokens", "open_text": "tokens", "token_windows": "tokens",
    "vocabulary_of": "tokens",
}  # fmt: skip

__all__ = [
    "ArraySource", "ImageFolder", "LogMel", "PairedSource", "SharedData", "Source", "SpectrogramSource", "Subset",
    "TokenSource", "TokenWindows", "WavSource", "WindowSource", "array_source", "batches", "channel_statistics",
    "content_hash", "epoch_order", "load_shared", "load_tokens", "open_array", "open_audio", "open_digits", "open_idx",
    "open_images", "open_source", "open_table", "open_text", "open_wavs", "sides", "token_windows", "vocabulary_of",
    "windows_of",
]  # fmt: skip


__getattr__ = on_first_use(__name__, _HOMES)


def open_source(spec: str | Path, **options: Any) -> Source:
    """Open data by path or name; `options` are those of the reader, and an unknown one is refused.

    - `x.npy`, `x.npz`: open_array; `x.csv`, `x.parquet`: open_table; idx files, also `.gz`: open_idx
    - `x.txt`: open_text
    - a folder of images: open_images; a folder of WAV files: open_audio
    - `digits`, `digits:test`: open_digits
    - `shared:NAME`, `shared:NAME:test`: one part of load_shared

    A file named like one of the last two is reached as a Path or as `./digits`. Raises DataError,
    ConfigError, and MissingDependencyError where the reader's package is not installed.
    """
    from edgessl.data.optional import call_with_options

    if isinstance(spec, str):
        name, _, rest = spec.partition(":")
        if name in ("digits", "shared"):
            return _named(name, rest, options)
    reader = _reader_for(Path(spec))
    source: Source = call_with_options(__getattr__(reader), f"data {str(spec)!r} ({reader})", spec, **options)
    return source


def _named(name: str, rest: str, options: dict[str, Any]) -> Source:
    from edgessl.data.digits import open_digits
    from edgessl.data.optional import call_with_options
    from edgessl.data.shared import load_shared

    data_set, _, part = rest.partition(":") if name == "shared" else ("", "", rest)
    if part not in ("", "train", "test"):
        raise ConfigError(f"data {name}:{rest!r}: no part {part!r}; expected train or test")
    if name == "digits":
        return call_with_options(open_digits, f"data {name!r}", part or "train", **options)
    loaded = load_shared(data_set, **options)
    return loaded.test if part == "test" else loaded.train


def _reader_for(path: Path) -> str:
    """The name of the function that reads `path`."""
    name = path.name.lower()
    if path.is_file():
        if name.endswith((".npy", ".npz")):
            return "open_array"
        if name.endswith((".csv", ".parquet")):
            return "open_table"
        if name.endswith(".txt"):
            return "open_text"
        if name.endswith((".idx", ".gz", "-ubyte")):
            return "open_idx"
    elif path.is_dir():
        from edgessl.data.folders import list_files
        from edgessl.data.images import SUFFIXES

        images, sounds = len(list_files(path, SUFFIXES)), len(list_files(path, (".wav",)))
        if images and not sounds:
            return "open_images"
        if sounds and not images:
            return "open_audio"
        raise DataError(f"{path}: found {images} images and {sounds} WAV files; expected a folder of one of the two")
    found = "a file of another kind" if path.exists() else "nothing there"
    raise DataError(
        f"{path}: expected a .npy, .npz, .csv, .parquet, .txt or idx file, a folder of images or WAV files,"
        f" 'digits' or 'shared:NAME'; found {found}"
    )
