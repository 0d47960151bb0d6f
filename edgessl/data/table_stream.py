"""One pass over a CSV or Parquet file: channels to a binary file, the other columns to small arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgessl.data.optional import require
from edgessl.errors import ConfigError, DataError

_BLOCK_BYTES = 1 << 22
_BATCH_ROWS = 1 << 16
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class TableSpec(NamedTuple):
    """The columns that a user chose by name (channels None: all others) and how their cells are read."""

    channels: tuple[str, ...] | None
    time: str | None
    label: str | None
    group: str | None
    delimiter: str
    time_scale: float  # seconds per unit of a numeric time column


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of each row beside its channels; labels and groups are codes into their names."""

    rows: int
    channels: int
    bad_rows: NDArray[np.int64]  # rows with a channel that is not finite
    times: NDArray[np.float64] | None
    labels: NDArray[np.int64] | None
    groups: NDArray[np.int64] | None
    classes: tuple[str, ...]
    group_names: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Size of the file of float32 values (rows, channels)."""
        return 4 * self.rows * self.channels

    def save(self, path: Path) -> None:
        """Write as `.npz`, without pickle."""
        arrays: dict[str, Any] = {
            name: np.array(value, np.str_) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if value is not None
        }
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Index:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as members:
            found = {name: members[name] for name in members.files}
        return cls(
            int(found["rows"]), int(found["channels"]), found["bad_rows"],
            found.get("times"), found.get("labels"), found.get("groups"),
            tuple(found["classes"].tolist()), tuple(found["group_names"].tolist()),
        )  # fmt: skip


class _Codes:
    """Numbers the words of a column as they stream by."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.parts: list[NDArray[np.int64]] = []

    def add(self, column: Any) -> None:
        """Append one batch's column; an empty cell is -1."""
        arrow = require("pyarrow")
        encoded = column.cast(arrow.string()).dictionary_encode()
        words = encoded.dictionary.to_pylist()
        codes = np.array([self.known.setdefault(word, len(self.known)) for word in words] + [-1], np.int64)
        codes[:-1][[word == "" for word in words]] = -1
        places = encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
        self.parts.append(codes[places])

    def finish(self) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Codes of all rows and their names in sorted order."""
        names = sorted(word for word in self.known if word != "")
        place = np.full(len(self.known) + 1, -1, np.int64)
        for number, word in enumerate(names):
            place[self.known[word]] = number
        return place[np.concatenate(self.parts)], tuple(names)


def convert(path: Path, wanted: TableSpec, out: IO[bytes]) -> Index:
    """Stream `path`, write its channels to `out` as little-endian float32 rows and return the rest.

    DataError names the file and what is wrong: a missing or repeated column, words among the numbers, rows
    of unequal length, no rows.
    """
    arrow = require("pyarrow")
    rows = channels = 0
    bad: list[NDArray[np.int64]] = []
    times: list[NDArray[np.float64]] = []
    labels, groups = _Codes(), _Codes()
    try:
        for batch in _record_batches(path, wanted):
            names = _channels(path, wanted, batch.schema.names)
            block = np.stack([_numbers(path, name, batch.column(name)) for name in names], axis=1)
            out.write(block.tobytes())
            bad.append(rows + np.flatnonzero(~np.isfinite(block).all(axis=1)))
            if wanted.time is not None:
                times.append(_seconds(path, wanted, batch.column(wanted.time), rows))
            if wanted.label is not None:
                labels.add(batch.column(wanted.label))
            if wanted.group is not None:
                groups.add(batch.column(wanted.group))
            rows, channels = rows + len(block), len(names)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    out.flush()
    if rows == 0:
        raise DataError(f"{path}: the table has no rows")
    label_codes, classes = labels.finish() if wanted.label is not None else (None, ())
    group_codes, group_names = groups.finish() if wanted.group is not None else (None, ())
    if label_codes is not None and all(_INTEGER.fullmatch(word) for word in classes):
        numbers = np.array([int(word) for word in classes] + [-1], np.int64)
        label_codes, classes = numbers[label_codes], ()
    if group_codes is not None and (group_codes < 0).any():
        row = int(np.flatnonzero(group_codes < 0)[0]) + 1
        raise DataError(f"{path}: column {wanted.group!r} is empty in data row {row}; name every row's group")
    return Index(
        rows, channels, np.concatenate(bad), np.concatenate(times) if times else None,
        label_codes, group_codes, classes, group_names,
    )  # fmt: skip


def _record_batches(path: Path, wanted: TableSpec) -> Iterator[Any]:
    if path.suffix.lower() == ".parquet":
        file = require("pyarrow.parquet").ParquetFile(path, memory_map=True)
        names = _selected(path, wanted, file.schema_arrow.names)
        yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=names)
        return
    arrow, csv = require("pyarrow"), require("pyarrow.csv")
    reading = csv.ReadOptions(block_size=_BLOCK_BYTES)
    parsing = csv.ParseOptions(delimiter=wanted.delimiter)
    with csv.open_csv(path, read_options=reading, parse_options=parsing) as first:
        schema = first.schema
    types = {}
    for name in (names := _selected(path, wanted, schema.names)):
        # Types are guessed from the first block alone, so the guess is widened to what later blocks may hold.
        kind = schema.field(name).type
        if name in (wanted.label, wanted.group):
            types[name] = arrow.string()
        elif arrow.types.is_timestamp(kind):
            types[name] = arrow.timestamp("ns", tz=kind.tz)
        elif arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_null(kind):
            types[name] = arrow.float64()
    choice = csv.ConvertOptions(include_columns=names, column_types=types)
    parsing.ignore_empty_lines = len(schema.names) > 1  # in a file of one column it is an empty cell
    with csv.open_csv(path, read_options=reading, parse_options=parsing, convert_options=choice) as stream:
        yield from stream


def _channels(path: Path, wanted: TableSpec, names: list[str]) -> list[str]:
    if wanted.channels is not None:
        return list(wanted.channels)
    others = [name for name in names if name not in (wanted.time, wanted.label, wanted.group)]
    if not others:
        raise DataError(f"{path}: no column is left for the channels; found {', '.join(names)}")
    return others


def _selected(path: Path, wanted: TableSpec, names: list[str]) -> list[str]:
    """Names of every column to read; DataError if one is missing or there twice."""
    chosen = _channels(path, wanted, names)
    chosen += [name for name in (wanted.time, wanted.label, wanted.group) if name is not None]
    for name in chosen:
        if names.count(name) != 1:
            raise DataError(
                f"{path}: expected one column {name!r}, found {names.count(name)}; the columns are: {', '.join(names)}"
            )
    return list(dict.fromkeys(chosen))


def _numbers(path: Path, name: str, column: Any) -> NDArray[np.float32]:
    """A channel as float32, NaN where a cell is empty."""
    types = require("pyarrow").types
    if not (types.is_integer(column.type) or types.is_floating(column.type) or types.is_null(column.type)):
        raise DataError(
            f"{path}: column {name!r} is {column.type}; a channel holds numbers. Choose with columns=..., or"
            " name it as time, label or group"
        )
    with np.errstate(over="ignore"):
        return np.asarray(column.cast("float64").to_numpy(zero_copy_only=False), "<f4")


def _seconds(path: Path, wanted: TableSpec, column: Any, row: int) -> NDArray[np.float64]:
    arrow, name = require("pyarrow"), wanted.time
    if arrow.types.is_timestamp(column.type):
        if wanted.time_scale != 1:
            raise ConfigError(f"{path}: time column {name!r} holds dates, which have no time_scale; leave it out")
        column = column.cast(arrow.timestamp("ns", tz=column.type.tz))
        seconds = column.cast("int64").cast("float64", safe=False).to_numpy(zero_copy_only=False) / 1e9
    elif arrow.types.is_integer(column.type) or arrow.types.is_floating(column.type):
        seconds = column.cast("float64").to_numpy(zero_copy_only=False) * wanted.time_scale
    else:
        raise DataError(f"{path}: time column {name!r} is {column.type}; expected seconds or ISO 8601 dates and times")
    if not np.isfinite(seconds).all():
        bad = row + int(np.flatnonzero(~np.isfinite(seconds))[0]) + 1
        raise DataError(f"{path}: time column {name!r} is empty or not finite in data row {bad}")
    return np.asarray(seconds, np.float64)
