"""Denoising autoencoder: give back the clean sample (Vincent et al. 2010, JMLR 11, 3371-3408)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from edgessl.encoders import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import sample_decoder
from edgessl.views.signals import normal


@dataclass(frozen=True)
class Denoising(Objective):
    """Any encoder, any kind of input; no slots.

    Two corruptions at once, both after normalisation: Gaussian noise of standard deviation `sigma`, in units of the
    channels' own, and masking noise, which sets pixels or time steps to 0 with probability `dropped`. Every sample is
    a problem of its own: any batch will do, and 2 is the smallest whose embeddings have a spread to watch. It takes
    the sample as it came.
    """

    decoder_width: int = 32
    name: ClassVar[str] = "denoising"
    family: ClassVar[str] = "generative"
    hyper: ClassVar[dict[str, float]] = {"sigma": 0.5, "dropped": 0.3}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal")

    def crops(self) -> tuple[int, int]:
        """No views."""
        return (0, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """An even number for the Gaussian noise, then one per pixel or time step for the mask."""
        return gaussian_width(shape) + math.prod(shape[1:])

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The decoder; ConfigError for features without a place in the sample."""
        return {"decoder": sample_decoder(encoder, self.name, self.decoder_width)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Mean squared error of the normalised sample, everywhere."""
        x = network("encoder.normalize", batch.sample)
        width = gaussian_width(tuple(x.shape[1:]))
        gaussian = gaussian_like(x, batch.noise[:, :width])
        kept = (batch.noise[:, width:] >= hyper["dropped"]).to(x.dtype).reshape(-1, 1, *x.shape[2:])
        features = network("encoder.run", (x + hyper["sigma"] * gaussian) * kept, 0, -2)
        errors = (network("decoder", features) - x).square().flatten(1).mean(dim=1, keepdim=True)
        return Loss(gather(errors).mean(), network("encoder.pool", features), {})


def gaussian_width(shape: tuple[int, ...]) -> int:
    """Uniform numbers that make one Gaussian per value of a sample: an even count."""
    return 2 * math.ceil(math.prod(shape) / 2)


def gaussian_like(x: Tensor, noise: Tensor) -> Tensor:
    """Standard normal numbers of the shape of `x` (N, *shape) from uniform ones (N, gaussian_width(shape))."""
    return normal(noise)[:, : math.prod(x.shape[1:])].reshape(x.shape)
