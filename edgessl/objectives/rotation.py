"""Rotation prediction: by which quarter turn was the image turned? (Gidaris et al. 2018, arXiv 1803.07728)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders import Encoder
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import classifier
from edgessl.objectives.functional.sequence import token_cross_entropy


@dataclass(frozen=True)
class RotationPrediction(Objective):
    """Square images; no slots.

    Every sample enters in all four turns, as the paper found best, so the classes of a batch are balanced at any size
    and 2 is the smallest whose embeddings have a spread to watch; a step costs four passes per sample. It takes one
    augmented view: crops and colours keep the network from reading the answer off the borders. No use for pictures
    without an up (textures, aerial images) or drawn with a turn of their own.
    """

    hidden: int = 128
    name: ClassVar[str] = "rotation"
    family: ClassVar[str] = "pretext"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("image",)

    def crops(self) -> tuple[int, int]:
        """One augmented view."""
        return (1, 0)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A classifier of four turns; ConfigError unless samples are square (C, H, H)."""
        shape = encoder.input_shape
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ConfigError(f"objective 'rotation': expected square images (C, H, H), found samples {shape}")
        return {"classifier": classifier((encoder.embedding_dim, self.hidden, 4))}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Cross-entropy over the four turns; the embeddings watched are those of the upright images."""
        (x,) = batch.views
        h = network("encoder", quarter_turns(x))
        labels = torch.arange(4, device=x.device).repeat_interleave(x.shape[0])
        errors = token_cross_entropy(network("classifier", h), labels)
        return Loss(gather(errors.unsqueeze(1)).mean(), h.chunk(4)[0], {})


def quarter_turns(x: Tensor) -> Tensor:
    """(N, C, H, H) turned counter-clockwise by 0, 90, 180 and 270 degrees: (4N, C, H, H), one turn after the other."""
    turned = x.transpose(2, 3)
    return torch.cat([x, turned.flip(2), x.flip((2, 3)), turned.flip(3)])
