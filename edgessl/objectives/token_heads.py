"""What the objectives on token sequences share: the prediction head, and which encoders they can train."""

from __future__ import annotations

from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.encoders.tokens import TokenEmbedding
from edgessl.errors import ConfigError


class Predictor(nn.Module):
    """`linear(norm(h))`: the last norm, which the encoder has in its pool, and one output per class or value."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, outputs)

    def forward(self, h: Tensor) -> Tensor:
        """`(N, L, width)` to `(N, L, outputs)`."""
        out: Tensor = self.linear(self.norm(h))
        return out


def token_stage(encoder: Encoder, objective: str, *, alone: bool) -> TokenEmbedding:
    """The encoder's embedding of tokens.

    Args:
        encoder: the encoder to train; objective: its name, for the error.
        alone: each token is embedded by itself, before a pool of at least two; otherwise blocks look around.

    Raises:
        ConfigError: it is another kind of encoder.
    """
    stage, wanted = encoder.stages[0], "word_vectors" if alone else "token_transformer"
    if not isinstance(stage, TokenEmbedding) or (len(encoder.stage_names) == 2) != alone:
        raise ConfigError(f"objective {objective}: expected the encoder {wanted}, found stages {encoder.stage_names}")
    if encoder.feature_shape[0] < 2:
        raise ConfigError(f"objective {objective}: the window is one token long, which has no neighbours")
    return stage


def ids_of(sample: Tensor) -> Tensor:
    """Token ids `(N, L)` of samples `(N, 1, L)`."""
    return sample.squeeze(1)
