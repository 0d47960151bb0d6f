"""One seam for everything that embeds: a torch encoder, a bundle's float graph, a bundle's int8 graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from edgessl.data.source import Source, batches
from edgessl.device.bundle.archive import Bundle
from edgessl.device.runtime import EncoderRunner, FrozenEncoderRunner
from edgessl.encoders.base import evaluation_mode

Array = np.ndarray[Any, np.dtype[Any]]
BATCH = 256


class Embedder(Protocol):
    """What maps samples to embeddings and never changes."""

    def embed(self, samples: Array) -> Array:
        """Embeddings (N, D) float32 of samples (N, *shape) float32, in the data's own units."""
        ...


@torch.no_grad()
def embed(encoder: nn.Module, samples: Array, batch_size: int = BATCH) -> Array:
    """Embeddings `(N, D)` float32 of `samples` `(N, *shape)` float32, in evaluation mode."""
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    with evaluation_mode(encoder):
        rows = [
            encoder(torch.from_numpy(samples[i : i + batch_size]).to(device)).float().cpu()
            for i in range(0, len(samples), batch_size)
        ]
    return torch.cat(rows).numpy()


@dataclass(frozen=True, eq=False)
class TorchEmbedder:
    """A torch encoder in evaluation mode, on the device where its weights are."""

    encoder: nn.Module

    def embed(self, samples: Array) -> Array:
        """See `Embedder.embed`."""
        return embed(self.encoder, samples)


class BundleEmbedder:
    """A bundle's float encoder in onnxruntime, with the bundle's own weights."""

    def __init__(self, bundle: Bundle) -> None:
        self._runner, self._theta = EncoderRunner(bundle), bundle.state()["theta"]

    def embed(self, samples: Array) -> Array:
        """See `Embedder.embed`."""
        return np.concatenate([self._runner.embed(self._theta, part) for part in _parts(samples)])


class Int8Embedder:
    """A bundle's int8 encoder in onnxruntime; BundleError where the bundle has none."""

    def __init__(self, bundle: Bundle) -> None:
        self._runner = FrozenEncoderRunner(bundle)

    def embed(self, samples: Array) -> Array:
        """See `Embedder.embed`."""
        return np.concatenate([self._runner.embed(part) for part in _parts(samples)])


def _parts(samples: Array) -> list[Array]:
    return [samples[i : i + BATCH] for i in range(0, len(samples), BATCH)]


def embed_source(embedder: Embedder, source: Source) -> Array:
    """Embeddings (N, D) float32 of every sample of `source`, which is read a batch at a time."""
    return np.concatenate([embedder.embed(samples) for samples in batches(source, BATCH)])
