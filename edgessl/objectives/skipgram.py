"""Skip-gram: a word predicts its neighbours (Word2Vec, Mikolov et al. 2013, arXiv 1301.3781 and 1310.4546)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.functional import negative_sampling_loss
from edgessl.objectives.token_heads import token_stage
from edgessl.objectives.word2vec import false_words, neighbourhood, words


@dataclass(frozen=True)
class SkipGram(Objective):
    """Negative sampling: each word against the true ones within `radius` places, and `negatives` false ones per pair.
    No slots, no views.

    The pairs of one word share its false words (as BlazingText does), which are drawn by the joined batch's word counts
    to the power of 3/4. A batch of 1 does. Made for the encoder "word_vectors"; a transformer would see the answer.
    """

    radius: int = 2
    negatives: int = 5
    name: ClassVar[str] = "skipgram"
    family: ClassVar[str] = "predictive"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("tokens",)
    min_batch: ClassVar[int] = 1

    def crops(self) -> tuple[int, int]:
        """None."""
        return (0, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """One number per false word."""
        return shape[1] * self.negatives

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The output vectors of all words; ConfigError for an encoder that mixes places."""
        stage = token_stage(encoder, self.name, alone=True)
        return {"output": nn.Linear(encoder.feature_shape[1], stage.vocabulary, bias=False)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Mean over the true pairs of the joined batch."""
        vectors = network("encoder.features", batch.sample)
        scores = network("output", vectors)
        seen, places = words(batch.sample, scores.shape[2]), scores.shape[1]
        near = neighbourhood(places, self.radius, scores)
        pairs = near.sum(dim=1, keepdim=True)
        false = pairs * false_words(batch.noise, gather(seen.sum(dim=1)).sum(dim=0), places)
        errors: Tensor = negative_sampling_loss(scores, near @ seen, false) / pairs.sum()
        return Loss(gather(errors.unsqueeze(1)).mean(), network("encoder.pool", vectors), {})
