"""Diffusion as a pretext: predict the noise in a noised sample (DDPM, Ho et al. 2020, arXiv 2006.11239, eq. 14).

The encoder is the way down of the usual U-Net; that its features serve recognition was shown by Xiang et al. 2023
(DDAE, arXiv 2303.09769).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders import Encoder
from edgessl.encoders.norm import ConvNorm
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import Table, sample_decoder
from edgessl.objectives.denoising import gaussian_like, gaussian_width
from edgessl.objectives.functional.generative import diffuse, signal_levels, time_embedding

TIMES = 32  # numbers in a time's embedding


class NoisePredictor(nn.Module):
    """The way up: noised sample, the encoder's features at the sample's size and the time, to the predicted noise."""

    def __init__(self, encoder: Encoder, objective: str, width: int) -> None:
        super().__init__()
        channels = encoder.input_shape[0]
        convolution: Any = nn.Conv1d if len(encoder.input_shape) == 2 else nn.Conv2d
        self.condition = sample_decoder(encoder, objective, width, channels=width)
        self.time = nn.Sequential(nn.Linear(TIMES, width), nn.ReLU(), nn.Linear(width, width))
        self.enter = convolution(channels + width, width, 3, padding=1)
        self.middle = ConvNorm(convolution(width, width, 3, padding=1, bias=False), "group")
        self.leave = convolution(width, channels, 3, padding=1)

    def forward(self, noised: Tensor, features: Tensor, t: Tensor) -> Tensor:
        """`noised` (N, *shape), `features` (N, *feature_shape), `t` (N,) to noise (N, *shape)."""
        h = self.enter(torch.cat([noised, self.condition(features)], dim=1))
        time = self.time(time_embedding(t, TIMES))
        h = h + time.reshape(*time.shape, *[1] * (h.ndim - 2))
        noise: Tensor = self.leave(self.middle(torch.relu(h)))
        return noise


@dataclass(frozen=True)
class Diffusion(Objective):
    """Any encoder, any kind of input; no slots.

    The encoder sees the noised, normalised sample at a random time and is not told which; the predictor is. Clean
    samples, which the encoder embeds afterwards, are the case of no noise. The embeddings watched are those of noised
    samples and therefore closer together than those of clean ones. Every sample is a problem of its own, at one random
    time per step: 2 is the smallest batch whose embeddings have a spread, but below 16 the loss jumps with the times
    that were drawn; then lower the learning rate. It takes the sample as it came.

    Attributes:
        steps: number of times; schedule: "cosine" or "linear", see `signal_levels`.
        decoder_width: channels of the predictor.
    """

    steps: int = 1000
    schedule: str = "cosine"
    decoder_width: int = 32
    name: ClassVar[str] = "diffusion"
    family: ClassVar[str] = "generative"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal")

    def __post_init__(self) -> None:
        signal_levels(self.steps, self.schedule)

    def crops(self) -> tuple[int, int]:
        """No views."""
        return (0, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """One number for the time, then what Gaussian noise takes."""
        return 1 + gaussian_width(shape)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The noise levels and the noise predictor; ConfigError for features without a place in the sample."""
        levels = Table(signal_levels(self.steps, self.schedule))
        return {"levels": levels, "predictor": NoisePredictor(encoder, self.name, self.decoder_width)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Mean squared error of the predicted noise: the paper's simple loss, all times weighed alike."""
        x = network("encoder.normalize", batch.sample)
        t = torch.floor(batch.noise[:, 0] * self.steps).clamp(max=self.steps - 1)
        epsilon = gaussian_like(x, batch.noise[:, 1:])
        noised = diffuse(x, epsilon, network("levels", t))
        features = network("encoder.run", noised, 0, -2)
        errors = (network("predictor", noised, features, t) - epsilon).square().flatten(1).mean(dim=1, keepdim=True)
        return Loss(gather(errors).mean(), network("encoder.pool", features), {})
