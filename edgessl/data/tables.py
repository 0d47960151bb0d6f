"""CSV and Parquet streams of sensors, cut into windows; the table itself is never whole in memory."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgessl.data.series import WindowSource, windows_of
from edgessl.data.table_stream import Index, TableSpec, convert
from edgessl.errors import ConfigError, DataError

_CACHE_VERSION = 1


def open_table(
    path: str | Path,
    *,
    window: int,
    stride: int | None = None,
    columns: tuple[str, ...] | list[str] | None = None,
    time: str | None = None,
    label: str | None = None,
    group: str | None = None,
    max_gap: float | None = None,
    missing: Literal["refuse", "split"] = "refuse",
    delimiter: str = ",",
    time_scale: float = 1.0,
    units: str = "as stored",
    cache_dir: str | Path | None = None,
) -> WindowSource:
    """Open a `.csv` or `.parquet` file as windows of `window` rows, `stride` (default: window) apart.

    The chosen columns are streamed once, by blocks of a CSV or row groups of a Parquet file, into a
    memory-mapped float32 file: an unnamed one in the system's temporary folder, or one that later calls use
    again in `cache_dir`.

    columns: the channels, by default all but time, label and group. They must be numbers.
    time: column of seconds (numbers) or of ISO 8601 dates and times; within a group it may not step back.
    time_scale: seconds per unit of a numeric time column (0.001 for milliseconds).
    label: column of integers, or of words which become classes in sorted order; empty cells are -1.
    group: column whose changes no window crosses (recording, device); no cell may be empty.
    max_gap: seconds; no window crosses a longer step of `time`.
    delimiter: what separates the cells of a CSV.
    missing: "refuse" rows with an empty or non-finite channel (DataError), or "split" the windows at them.
    """
    path = Path(path)
    if missing not in ("refuse", "split"):
        raise ConfigError(f"missing is {missing!r}; expected 'refuse' or 'split'")
    if len(delimiter) != 1 or not time_scale > 0:
        raise ConfigError(
            f"delimiter is {delimiter!r} and time_scale {time_scale}; expected one character and a number above 0"
        )
    if max_gap is not None and time is None:
        raise ConfigError("max_gap needs the name of the time column: time=...")
    if not path.is_file():
        raise DataError(f"{path}: expected a .csv or .parquet file, found nothing there")
    wanted = TableSpec(None if columns is None else tuple(columns), time, label, group, delimiter, time_scale)
    index, values = _cached(path, wanted, None if cache_dir is None else Path(cache_dir))
    if len(index.bad_rows) and missing == "refuse":
        raise DataError(
            f"{path}: {len(index.bad_rows)} of {index.rows} data rows have an empty or non-finite channel,"
            f" the first is row {index.bad_rows[0] + 1}; repair them or give missing='split'"
        )
    _refuse_steps_back(path, index)
    valid = np.ones(index.rows, bool)
    valid[index.bad_rows] = False
    return windows_of(
        values,
        window=window,
        stride=stride,
        labels=index.labels,
        times=index.times,
        groups=index.groups,
        max_gap=max_gap,
        valid=valid,
        units=units,
        name=str(path),
        classes=index.classes,
        group_names=index.group_names,
    )


def _cached(path: Path, wanted: TableSpec, folder: Path | None) -> tuple[Index, NDArray[np.float32]]:
    if folder is None:
        with tempfile.TemporaryFile() as unnamed:  # the memory map keeps its bytes until it is collected
            handle = cast(IO[bytes], unnamed)
            index = convert(path, wanted, handle)
            return index, np.memmap(handle, "<f4", mode="r", shape=(index.rows, index.channels))
    stat = path.stat()
    facts = [_CACHE_VERSION, str(path.resolve()), stat.st_size, stat.st_mtime_ns, wanted]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    data, side = folder / f"{path.stem}-{key}.f32", folder / f"{path.stem}-{key}.npz"
    index_or_none = Index.load(side) if side.is_file() else None
    if index_or_none is None or not data.is_file() or data.stat().st_size != index_or_none.nbytes:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".convert-") as work:
            with Path(work, "values").open("wb") as handle:
                index_or_none = convert(path, wanted, handle)
            index_or_none.save(Path(work, "index.npz"))
            os.replace(Path(work, "values"), data)
            os.replace(Path(work, "index.npz"), side)  # last: it says that the values are complete
    index = index_or_none
    return index, np.memmap(data, "<f4", mode="r", shape=(index.rows, index.channels))


def _refuse_steps_back(path: Path, index: Index) -> None:
    if index.times is None:
        return
    back = np.diff(index.times) < 0
    if index.groups is not None:
        back &= index.groups[1:] == index.groups[:-1]
    if back.any():
        raise DataError(
            f"{path}: time steps back at data row {int(np.flatnonzero(back)[0]) + 2}; sort the rows by time,"
            " or give group=... if several recordings follow each other"
        )
