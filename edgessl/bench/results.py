"""A bench's result: on disk, written as it grows and taken up where an earlier run was cut short; and in a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgessl.device.storage.files import write_atomically
from edgessl.errors import ConfigError, DataError
from edgessl.machine import machine, versions

Row = dict[str, Any]


def taken_up(out: str | None, identity: Mapping[str, Any]) -> list[Row]:
    """The rows that an earlier run left in the file `out`; none without a file.

    `identity`: keys of the result that must be the same, such as "bench" and "settings". Raises DataError for a file
    that is no result, ConfigError for that of another bench or other settings.
    """
    if not out or not (path := Path(out)).exists():
        return []
    try:
        found = json.loads(path.read_text())
        rows: list[Row] = found["rows"]
        other = [key for key, value in identity.items() if found[key] != json.loads(json.dumps(value))]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the result of a bench: {error}") from None
    if other:
        raise ConfigError(f"{path} was measured with other {' and '.join(other)}; give another file, or delete it")
    return rows


def start(bench: str, settings: Mapping[str, Any], out: str | None) -> dict[str, Any]:
    """The result of `bench` on this machine, with the rows that `taken_up` finds in the file `out`."""
    return {
        "bench": bench,
        "settings": settings,
        "rows": taken_up(out, {"bench": bench, "settings": settings}),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
    }


def keep(out: str | None, result: Mapping[str, Any]) -> None:
    """Write `result` to the file `out`, whole or not at all; its folder is made. Nothing without a file."""
    if out:
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(result, indent=1).encode() + b"\n")


def spread(values: Sequence[float], digits: int = 1, sign: str = "") -> str:
    """Mean and, of several, sample standard deviation, as "72.7 ± 1.2"; a dash for none. `sign` "+" shows it always."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.{digits}f}{deviation}" if values else "–"
