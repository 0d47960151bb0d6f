"""Cutting a pretrained encoder for latent replay: a backbone that stays as it is, and a tail that goes on learning.

Pellegrini et al., "Latent replay for real-time continual learning", IROS 2020: what is remembered are activations at
the cut, and only what lies behind it is trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.errors import ConfigError

ADAPTER = "adapter"  # name of the stage that a cut behind everything adds


class ResidualAdapter(nn.Module):
    """`z + W2 relu(norm(W1 z))`, the identity at first, since W2 starts at zero.

    The adapter of Houlsby et al., "Parameter-efficient transfer learning for NLP", ICML 2019, with a layer norm, its
    bottleneck half as wide as the embedding.

    Args:
        size: numbers in an embedding.
        seed: of W1; torch's global generator stays as it was.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            width = max(2, size // 2)
            self.down = nn.Linear(size, width, bias=False)
            nn.init.xavier_uniform_(self.down.weight)
            self.norm = nn.LayerNorm(width)
            self.up = nn.Linear(width, size, bias=False)
            nn.init.zeros_(self.up.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Maps (N, size) to (N, size)."""
        out: Tensor = z + self.up(F.relu(self.norm(self.down(z))))
        return out


def cut_points(encoder: Encoder) -> tuple[str, ...]:
    """The stages after which `cut_encoder` can cut: those that something trainable follows, and the last one."""
    after = [any(True for _ in stage.parameters()) for stage in encoder.stages]
    names = encoder.stage_names
    return (*(name for i, name in enumerate(names[:-1]) if any(after[i + 1 :])), names[-1])


def cut_encoder(encoder: Encoder, cut: str, seed: int = 0) -> tuple[Encoder, Encoder]:
    """Cut after stage `cut`: (backbone, tail), `tail(backbone(x))` being `encoder(x)`; modules are shared.

    After the last stage nothing is left, so the tail is then a new `ResidualAdapter` of the embedding, with weights
    from `seed`; latents are embeddings, the smallest there are.

    Raises:
        ConfigError: there is no such stage, or no parameter after it; the message lists the cuts.
    """
    possible = cut_points(encoder)
    if cut not in possible:
        raise ConfigError(
            f"cannot cut the encoder at {cut!r}; something that learns must follow. Cuts: {', '.join(possible)}"
        )
    if cut != encoder.stage_names[-1]:
        return encoder.split(cut)
    tail = Encoder({ADAPTER: ResidualAdapter(encoder.embedding_dim, seed)}, encoder.output_shape)
    return encoder, tail.train(encoder.training)
