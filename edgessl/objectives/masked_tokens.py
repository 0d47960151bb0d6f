"""Masked-token modelling: guess the hidden tokens from both sides (BERT, Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.functional import token_cross_entropy
from edgessl.objectives.token_heads import Predictor, ids_of, token_stage

MASKED, RANDOM = 0.8, 0.9  # of the chosen tokens 80 % are masked, the next 10 % become random ones, the rest stay


@dataclass(frozen=True)
class MaskedTokens(Objective):
    """Cross-entropy of a chosen `mask_ratio` of the tokens, of which 80 % are masked and 10 % replaced at random. No
    slots.

    A batch of 1 does, windows being long enough to hold some chosen tokens; where none is chosen the loss is 0.
    """

    name: ClassVar[str] = "masked_tokens"
    family: ClassVar[str] = "masked"
    hyper: ClassVar[dict[str, float]] = {"mask_ratio": 0.15}
    kinds: ClassVar[tuple[str, ...]] = ("tokens",)
    min_batch: ClassVar[int] = 1

    def crops(self) -> tuple[int, int]:
        """None: tokens are hidden in the samples themselves."""
        return (0, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """Per token: whether and how it is hidden, and the token that would take its place."""
        return 2 * shape[1]

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A predictor of the vocabulary; ConfigError for an encoder whose tokens do not see each other."""
        stage = token_stage(encoder, self.name, alone=False)
        return {"hide": Hide(stage.vocabulary), "predictor": Predictor(encoder.feature_shape[1], stage.vocabulary)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Mean over the chosen tokens of the joined batch."""
        ids, ratio = ids_of(batch.sample), hyper["mask_ratio"]
        how, what = batch.noise.chunk(2, dim=1)
        chosen = (how < ratio).to(ids.dtype)
        features = network("encoder.features", network("hide", ids, how / ratio, what).unsqueeze(1))
        errors = chosen * token_cross_entropy(network("predictor", features), ids)
        total, count = gather(torch.stack([errors.sum(dim=1), chosen.sum(dim=1)], dim=1)).sum(dim=0)
        return Loss(total / count.clamp(min=1), network("encoder.pool", features), {})


class Hide(nn.Module):
    """BERT's corruption (section 3.1). No parameters; it knows the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, ids: Tensor, how: Tensor, what: Tensor) -> Tensor:
        """Ids `(N, L)` with tokens masked (id `vocabulary`) where `how` < 0.8, and random where it is below 0.9.

        All others stay, those that were not chosen (`how` >= 1) included. `what` in [0, 1) picks the random token.
        """
        replaced = torch.where(how < RANDOM, torch.floor(what * self.vocabulary), ids)
        return torch.where(how < MASKED, torch.full_like(ids, self.vocabulary), replaced)
