"""What a read-out sees of a coder: mean activities per sample, or traces step by step; numpy in, numpy out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from neuromorphic.coder import SpikingPredictiveCoder, binned, trace
from neuromorphic.spike_data import SpikeSource, spike_batches

Array = np.ndarray[Any, np.dtype[Any]]


def embed_spikes(coder: SpikingPredictiveCoder, source: SpikeSource, bins: int = 1, batch: int = 128) -> Array:
    """Features `(N, bins * sum(n))` float32 of every sample, in order: see `SpikingPredictiveCoder.features`."""
    parts = [coder.features(torch.from_numpy(x).float(), bins) for x in spike_batches(source, batch)]
    return torch.cat(parts).numpy()


def input_features(source: SpikeSource, bins: int = 1, batch: int = 128) -> Array:
    """The input spikes themselves as features `(N, bins * n)` float32: what a read-out has without a coder."""
    return torch.cat([binned(torch.from_numpy(x).float(), bins) for x in spike_batches(source, batch)]).numpy()


@torch.no_grad()
def step_features(
    coder: SpikingPredictiveCoder | None, source: SpikeSource, steps: Array, keep: float = 0.9, batch: int = 32
) -> Array:
    """Traces of every layer at `steps` `(S,)`, `(N, S, sum(n))` float32; of the input where there is no coder."""
    at = torch.from_numpy(np.asarray(steps, np.int64))
    out = []
    for x in spike_batches(source, batch):
        spikes = torch.from_numpy(x).float()
        layers = [spikes] if coder is None else coder(spikes)
        out.append(torch.cat([trace(activity, keep, at) for activity in layers], 2))
    return torch.cat(out).numpy()
