"""A bench's result on disk: written as it grows, taken up where an earlier run was cut short."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgessl.device.storage.files import write_atomically
from edgessl.errors import ConfigError, DataError

Row = dict[str, Any]


def taken_up(out: str | None, identity: Mapping[str, Any]) -> list[Row]:
    """The rows that an earlier run left in the file `out`; none without a file.

    `identity`: keys of the result that must be the same, such as "bench" and "settings". Raises DataError for a file
    that is no result, ConfigError for that of another bench or other settings.
    """
    if out is None or not (path := Path(out)).exists():
        return []
    try:
        found = json.loads(path.read_text())
        rows: list[Row] = found["rows"]
        other = [key for key, value in identity.items() if found[key] != json.loads(json.dumps(value))]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the result of a bench: {error}") from None
    if other:
        raise ConfigError(f"{path} holds a result with another {' and '.join(other)}; give another file, or delete it")
    return rows


def keep(out: str | None, result: Mapping[str, Any]) -> None:
    """Write `result` to the file `out`, whole or not at all; its folder is made. Nothing without a file."""
    if out is not None:
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(result, indent=1).encode() + b"\n")
