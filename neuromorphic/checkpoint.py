"""Checkpoints of spiking coders: one safetensors file with JSON texts in its metadata. No pickle anywhere.

coder.<name>     parameters and scales of the layers
train.<name>     heads and optimizer moments; only training needs them
history          (rows, columns) float64
metadata         format, sha256, step, n_in, bits, and as JSON: recipe, columns, provenance
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import edgessl
from edgessl.device.storage import tensors
from edgessl.device.storage.files import write_atomically
from edgessl.errors import ConfigError, DataError, FormatError
from neuromorphic.cells import LIFCell
from neuromorphic.coder import SpikingPredictiveCoder
from neuromorphic.spike_data import SpikeSource

FORMAT = "edgessl-spiking-checkpoint-1"
HASHED = 64  # samples, evenly spaced, that tell one spike source from another
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SpikingCheckpoint:
    """A coder after `step` steps.

    Attributes:
        recipe: plain values of the `SpikingRecipe`.
        n_in: channels of the input.
        bits: of the weights; None: floats.
        step: steps taken.
        weights: the coder's tensors by name.
        training: heads and moments, to go on from.
        history: `(rows, len(columns))` float64; NaN where a figure does not exist.
        columns: what the history's columns are; "step" first.
        provenance: version, data hash, samples.
    """

    recipe: dict[str, Any]
    n_in: int
    bits: int | None
    step: int
    weights: dict[str, Tensor]
    training: dict[str, Tensor]
    history: Array
    columns: tuple[str, ...]
    provenance: dict[str, Any]

    @classmethod
    def of(
        cls,
        recipe: dict[str, Any],
        coder: SpikingPredictiveCoder,
        source: SpikeSource,
        step: int,
        rows: Sequence[Mapping[str, float]],
        columns: tuple[str, ...],
        training: Mapping[str, Tensor],
    ) -> SpikingCheckpoint:
        """A checkpoint that shares no memory with the coder."""
        history = np.array([[row[name] for name in columns] for row in rows], np.float64).reshape(-1, len(columns))
        provenance = {
            "edgessl": edgessl.__version__,
            "torch": torch.__version__,
            "data": spikes_hash(source),
            "samples": len(source),
            "spikes": list(source.shape),
        }
        weights = {name: value.detach().clone() for name, value in coder.state_dict().items()}
        kept = {name: value.detach().clone() for name, value in training.items()}
        return cls(recipe, coder.n_in, coder.bits, step, weights, kept, history, columns, provenance)

    def coder(self) -> SpikingPredictiveCoder:
        """The coder with these weights; where there are bits it runs in integers, at the checkpoint's scales."""
        from neuromorphic.training import parse_spiking_recipe

        coder = parse_spiking_recipe(self.recipe, "checkpoint").coder(self.n_in)
        coder.load_state_dict(self.weights)
        for layer in coder.layers:
            if isinstance(layer, LIFCell):
                layer.bits = self.bits
        return coder

    def rows(self) -> list[dict[str, float]]:
        """The history as one dict per row, "step" first."""
        return [dict(zip(self.columns, map(float, row), strict=True)) for row in self.history]

    def save(self, path: str | Path) -> None:
        """Write to `path` atomically, its folder too.

        Raises:
            DataError: the disk refuses.
        """
        path = Path(path)
        arrays = {f"coder.{name}": value.numpy() for name, value in self.weights.items()}
        arrays |= {f"train.{name}": value.numpy() for name, value in self.training.items()}
        arrays["history"] = self.history
        metadata = {
            "format": FORMAT, "step": str(self.step), "n_in": str(self.n_in), "bits": json.dumps(self.bits),
            "recipe": json.dumps(self.recipe), "columns": json.dumps(self.columns),
            "provenance": json.dumps(self.provenance),
        }  # fmt: skip
        metadata["sha256"] = _digest(arrays, metadata)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, tensors.dumps(arrays, metadata))
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> SpikingCheckpoint:
        """Read a checkpoint and verify its digest.

        Raises:
            DataError: missing, damaged, or not a spiking checkpoint of this version.
        """
        try:
            arrays, metadata = tensors.loads(Path(path).read_bytes())
            if metadata.get("format") != FORMAT:
                raise FormatError(f"format is {metadata.get('format')!r}, expected {FORMAT!r}")
            if metadata.pop("sha256", "") != _digest(arrays, metadata):
                raise FormatError("SHA-256 disagrees with the content: the file was altered or damaged")
            recipe, columns, provenance, bits = (
                json.loads(metadata[name]) for name in ("recipe", "columns", "provenance", "bits")
            )
            history = arrays.pop("history")
            if history.ndim != 2 or history.shape[1] != len(columns):
                raise FormatError("the history has not the columns it names")
            weights, training = (
                {k.removeprefix(p): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(p)}
                for p in ("coder.", "train.")
            )
            found = cls(recipe, int(metadata["n_in"]), bits, int(metadata["step"]), weights, training, history,
                        tuple(columns), provenance)  # fmt: skip
            found.coder()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        except (FormatError, ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{path}: not a readable spiking checkpoint: {error}") from None
        return found


def spikes_hash(source: SpikeSource) -> str:
    """A sha256 (hex) over the source's shape, its number of samples and at most 64 of them, labels left out."""
    digest = hashlib.sha256(f"{source.shape} {len(source)}".encode())
    chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), HASHED)).round().astype(np.int64))
    digest.update(np.packbits(source.take(chosen)).tobytes())
    return digest.hexdigest()


def _digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for piece in tensors.pieces(arrays, metadata):
        digest.update(piece)
    return digest.hexdigest()
