"""The checkpoint's file: safetensors with JSON texts in its metadata and a digest over everything. numpy only.

slot.<name>    every tensor of the state
probe.<name>   the online probe's tensors, where there is one
history        (rows, columns) float64
metadata       format, sha256, step, and as JSON: recipe, input, columns (the history's), provenance
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgessl.device.storage import tensors
from edgessl.device.storage.files import write_atomically
from edgessl.device.storage.tensors import Array
from edgessl.errors import DataError, FormatError

FORMAT = "edgessl-checkpoint-2"
DOCUMENTS = ("recipe", "input", "columns", "provenance")


def write_checkpoint(path: Path, arrays: Mapping[str, Array], step: int, documents: Mapping[str, Any]) -> None:
    """Write to `path` atomically, its folder too.

    Raises:
        DataError: the disk refuses.
    """
    metadata = {"format": FORMAT, "step": str(step), **{name: json.dumps(documents[name]) for name in DOCUMENTS}}
    metadata["sha256"] = _digest(arrays, metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, tensors.dumps(arrays, metadata))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def read_checkpoint(path: Path) -> tuple[dict[str, Array], int, dict[str, Any]]:
    """The arrays, the step and the documents of a file, its digest verified.

    Raises:
        DataError: missing, damaged, or not a checkpoint of this version.
    """
    try:
        arrays, metadata = tensors.loads(path.read_bytes())
        found = metadata.get("format")
        if found != FORMAT:
            old = "; an earlier edgessl wrote it: train again" if found == "edgessl-checkpoint-1" else ""
            raise FormatError(f"format is {found!r}, expected {FORMAT!r}{old}")
        if metadata.pop("sha256", "") != _digest(arrays, metadata):
            raise FormatError("SHA-256 disagrees with the content: the file was altered or damaged")
        documents = {name: json.loads(metadata[name]) for name in DOCUMENTS}
        history = arrays["history"]
        if history.ndim != 2 or history.shape[1] != len(documents["columns"]) or "slot.theta" not in arrays:
            raise FormatError("history or theta is missing, or the history has not the columns it names")
        return arrays, int(metadata["step"]), documents
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (FormatError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a readable edgessl checkpoint: {error}") from None


def _digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for piece in tensors.pieces(arrays, metadata):  # they share memory with the arrays
        digest.update(piece)
    return digest.hexdigest()
