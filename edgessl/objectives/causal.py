"""Causal prediction: the next token of a text, the next patch of a signal (GPT, Radford et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.encoders.signal_transformer import SignalPatches
from edgessl.encoders.tokens import TokenEmbedding
from edgessl.encoders.transformer import is_causal
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.functional import patchify, token_cross_entropy
from edgessl.objectives.token_heads import Predictor, ids_of


@dataclass(frozen=True)
class Causal(Objective):
    """Every place of a window predicts the next one, which it cannot see. No slots, no noise, no views.

    Tokens: cross-entropy in nats, L - 1 predictions per window. Signals: mean squared error of the next patch in units
    of the normalised input, where 1 is what predicting the mean of the data costs. A batch of 1 does: a window has many
    places. The encoder has to be causal: token_transformer or signal_transformer with `causal = true`.
    """

    name: ClassVar[str] = "causal"
    family: ClassVar[str] = "predictive"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("tokens", "signal")
    min_batch: ClassVar[int] = 1

    def crops(self) -> tuple[int, int]:
        """None."""
        return (0, 0)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A predictor of the vocabulary, or of a patch's values; ConfigError for encoders that see what comes."""
        stage = encoder.stages[0]
        if not is_causal(encoder) or not isinstance(stage, TokenEmbedding | SignalPatches):
            raise ConfigError(
                f"objective {self.name}: expected token_transformer or signal_transformer with causal = true; "
                "this encoder sees what it should predict"
            )
        if encoder.feature_shape[0] < 2:
            raise ConfigError(f"objective {self.name}: the window is one token long; nothing comes next")
        if isinstance(stage, TokenEmbedding):
            return {"next": NextToken(encoder.feature_shape[1], stage.vocabulary)}
        return {"next": NextPatch(encoder.feature_shape[1], stage)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Mean over places of the joined batch."""
        features = network("encoder.features", batch.sample)
        errors = network("next.errors", features, network("encoder.normalize", batch.sample))
        return Loss(gather(errors).mean(), network("encoder.pool", features), {})


class NextToken(Predictor):
    """The token that follows: features `(N, L, width)` to logits `(N, L, vocabulary)`."""

    def errors(self, features: Tensor, sample: Tensor) -> Tensor:
        """Cross-entropy `(N, L - 1)` of the tokens 2 ... L of the ids `(N, 1, L)`."""
        return token_cross_entropy(self(features)[:, :-1], ids_of(sample)[:, 1:])


class NextPatch(Predictor):
    """The patch that follows: features `(N, L, width)` to its values `(N, L, C * patch)`."""

    def __init__(self, width: int, patches: SignalPatches) -> None:
        super().__init__(width, patches.embed.in_features)
        self.patch = patches.grid[2]

    def errors(self, features: Tensor, sample: Tensor) -> Tensor:
        """Mean squared error `(N, L - 1)` of the patches 2 ... L of the normalised signal `(N, C, T)`."""
        return (self(features)[:, :-1] - patchify(sample, (self.patch,))[:, 1:]).square().mean(dim=2)
