"""Spikes in and out of .npz files, and random ones."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from edgessl.errors import DataError
from neuromorphic.network import IntegerNetwork
from neuromorphic.record import Record


def read_spikes(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by input name; `IntegerNetwork.check_inputs` judges them.

    Raises:
        DataError: missing, empty, or not an .npz file of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; expected an .npz file with an array per input") from error
    except (ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path}: not an .npz file of integer arrays ({error})") from error
    if not found:
        raise DataError(f"{path}: no arrays; expected one (batch, steps, channels) per input")
    return found


def random_spikes(network: IntegerNetwork, batch: int, steps: int, rate: float, seed: int) -> dict[str, np.ndarray]:
    """Spikes at `rate` per channel and step for every input, graded ones with random payloads; (batch, steps, n)."""
    rng = np.random.default_rng(seed)
    found = {}
    for spec in network.inputs:
        fires = rng.random((batch, steps, spec.size)) < rate
        dtype = np.int8 if spec.limit <= 127 else np.int32
        if not spec.payload_bits:
            found[spec.name] = fires.astype(dtype)
        else:
            found[spec.name] = (fires * rng.integers(-spec.limit, spec.limit + 1, fires.shape)).astype(dtype)
    return found


def write_record(record: Record, path: Path) -> None:
    """An .npz file with spikes.NAME, u.NAME, v.NAME (batch, steps, n) and weights.NAME (batch, n_post, n_pre)."""
    parts = {"spikes": record.spikes, "u": record.u, "v": record.v, "weights": record.weights}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        arrays = {f"{what}.{name}": array for what, group in parts.items() for name, array in group.items()}
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
