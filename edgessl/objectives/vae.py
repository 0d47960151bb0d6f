"""VAE: a variational bottleneck on the embedding (Kingma & Welling 2014, arXiv 1312.6114).

`beta` is that of Higgins et al. 2017 (beta-VAE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from edgessl.encoders import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import VectorDecoder
from edgessl.objectives.functional.generative import gaussian_kl
from edgessl.views.signals import normal

LOG_VARIANCE = 8.0  # bound of the predicted log variance; exp of more would end a run


@dataclass(frozen=True)
class VAE(Objective):
    """Any encoder, any kind of input; no slots.

    What is kept is the encoder's embedding, before the bottleneck: the mean and log variance are a head. `beta` weighs
    the KL term; 1 is the evidence bound with unit-variance pixels, more squeezes harder, and too much shuts the
    bottleneck (the KL falls to 0: posterior collapse). Every sample is a problem of its own: any batch will do, and 2
    is the smallest whose embeddings have a spread to watch. It takes the sample as it came.
    """

    latent: int = 32
    decoder_width: int = 32
    name: ClassVar[str] = "vae"
    family: ClassVar[str] = "generative"
    hyper: ClassVar[dict[str, float]] = {"beta": 1.0}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal")

    def crops(self) -> tuple[int, int]:
        """No views."""
        return (0, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """One Gaussian per latent number, from an even count of uniform ones."""
        return 2 * math.ceil(self.latent / 2)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A linear layer to mean and log variance, and the decoder."""
        return {
            "bottleneck": nn.Linear(encoder.embedding_dim, 2 * self.latent),
            "decoder": VectorDecoder(self.latent, encoder.input_shape, self.decoder_width),
        }

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """The negative evidence bound, up to a constant, per value of the sample: (|x - x'|^2 / 2 + beta KL) / values.

        Per value, so that the learning rate does not depend on the size of the sample.
        """
        h = network("encoder", batch.sample)
        mean, log_variance = network("bottleneck", h).chunk(2, dim=1)
        log_variance = log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE)
        epsilon = normal(batch.noise)[:, : self.latent]
        z = mean + torch.exp(0.5 * log_variance) * epsilon
        x = network("encoder.normalize", batch.sample)
        distance = 0.5 * (network("decoder", z) - x).square().flatten(1).sum(dim=1)
        bound = distance + hyper["beta"] * gaussian_kl(mean, log_variance)
        return Loss(gather(bound.unsqueeze(1) / math.prod(x.shape[1:])).mean(), h, {})
