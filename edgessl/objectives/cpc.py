"""CPC: predict the encoder's own frames a few steps ahead (van den Oord et al. 2018, arXiv 1807.03748)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder, as_frames
from edgessl.encoders.transformer import is_causal
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.functional import cpc_loss

KERNEL = 3  # frames that one layer of the context sees


@dataclass(frozen=True)
class CPC(Objective):
    """Frames of the sample, a causal convolutional context over them as in wav2vec (Schneider et al. 2019), one linear
    prediction for each of `steps` frames ahead. No slots, no noise, no views.

    A batch of 2 does: frames of the own sequence are candidates too. Frames of strided convolutions overlap, so that
    the nearest ones can be told by what they share; more `steps` ask for more. Transformers have to be causal.
    """

    hidden: int = 64
    steps: int = 3
    name: ClassVar[str] = "cpc"
    family: ClassVar[str] = "predictive"
    hyper: ClassVar[dict[str, float]] = {"temperature": 0.1}
    kinds: ClassVar[tuple[str, ...]] = ("signal", "spectrogram")

    def crops(self) -> tuple[int, int]:
        """None."""
        return (0, 0)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The context network; ConfigError for too few frames, or for an encoder whose frames see what comes."""
        if encoder.tokenized and not is_causal(encoder):
            raise ConfigError(f"objective {self.name}: this transformer's tokens see the next ones; set causal = true")
        if len(encoder.feature_shape) < 2:
            raise ConfigError(f"objective {self.name}: the encoder has no frames, its features are one vector")
        shape = encoder.feature_shape
        frames, width = shape if encoder.tokenized else (shape[-1], shape[0])
        if frames <= self.steps:
            raise ConfigError(
                f"objective {self.name}: {self.steps} steps ahead need {self.steps + 1} frames, the encoder gives "
                f"{frames}; take longer windows or fewer steps"
            )
        return {"context": Context(width, self.hidden, self.steps, encoder.tokenized)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """`cpc_loss` of the joined batch."""
        features = network("encoder.features", batch.sample)
        frames = network("context.frames", features)
        predictions = network("context", frames)
        sizes = frames.shape[1:], predictions.shape[1:]
        frames = gather(frames.reshape(frames.shape[0], -1)).reshape(-1, *sizes[0])
        predictions = gather(predictions.reshape(predictions.shape[0], -1)).reshape(-1, *sizes[1])
        value = cpc_loss(predictions.unbind(1), frames, hyper["temperature"])
        return Loss(value, network("encoder.pool", features), {})


class Context(nn.Module):
    """Two causal convolutions over frames, and what they say about the frames ahead.

    Args:
        width: size of a frame; hidden: of the context; steps: how many frames ahead.
        tokenized: whether the encoder's features are tokens, see `Encoder.frames`.
    """

    def __init__(self, width: int, hidden: int, steps: int, tokenized: bool) -> None:
        super().__init__()
        self.width, self.steps, self.tokenized = width, steps, tokenized
        self.conv1 = nn.Conv1d(width, hidden, KERNEL)
        self.conv2 = nn.Conv1d(hidden, hidden, KERNEL)
        self.ahead = nn.Linear(hidden, steps * width, bias=False)

    def frames(self, features: Tensor) -> Tensor:
        """Features as `(N, T, width)`."""
        return as_frames(features, self.tokenized)

    def forward(self, frames: Tensor) -> Tensor:
        """`(N, T, width)` to predictions `(N, steps, T, width)`: entry k - 1 of frame t + k, from frames up to t."""
        n, length, _ = frames.shape
        h = torch.relu(self.conv1(_delayed(frames.transpose(1, 2))))
        h = torch.relu(self.conv2(_delayed(h)))
        ahead: Tensor = self.ahead(h.transpose(1, 2))
        return ahead.reshape(n, length, self.steps, self.width).transpose(1, 2)


def _delayed(x: Tensor) -> Tensor:
    """`(N, C, T)` with zeros before it, so that a convolution's output t sees inputs up to t."""
    return torch.cat([torch.zeros_like(x[:, :, :1]).expand(-1, -1, KERNEL - 1), x], dim=2)
