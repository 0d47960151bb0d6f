"""Encoders of token sequences (1, L): ids 0 ... vocabulary - 1, carried as float32 like every other sample.

The embedding is a product with one-hot rows, so that its gradient is a matrix product too (a lookup's is a scatter,
slow and unordered); that suits the vocabularies of devices: characters, bytes, event codes, a few thousand words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Stages
from edgessl.encoders.transformer import DEPTH, HEADS, WIDTH, TokenMean, blocks, check_norm, positions
from edgessl.errors import ConfigError

VOCABULARY = 256  # bytes


def one_hot(ids: Tensor, size: int) -> Tensor:
    """Rows (..., size) of `ids` (...), whole numbers in a float tensor; an id outside 0 ... size - 1 gives zeros."""
    return (ids.unsqueeze(-1) == torch.arange(size, dtype=ids.dtype, device=ids.device)).to(ids.dtype)


class TokenEmbedding(nn.Module):
    """One row per id, and one more for the mask (id `vocabulary`): (N, 1, L) to (N, L, width)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embed = nn.Linear(vocabulary + 1, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rows of the ids."""
        tokens: Tensor = self.embed(one_hot(x.squeeze(1), self.vocabulary + 1))
        return tokens


class PlacedTokens(TokenEmbedding):
    """`TokenEmbedding` plus learned positions."""

    no_decay = frozenset({"position"})

    def __init__(self, vocabulary: int, width: int, tokens: int) -> None:
        super().__init__(vocabulary, width)
        self.position = positions(tokens, width)

    def forward(self, x: Tensor) -> Tensor:
        """Rows of the ids plus positions."""
        return super().forward(x) + self.position


class BagMean(nn.Module):
    """Mean of the tokens: (N, L, width) to (N, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Averages the tokens."""
        return x.mean(1)


def token_transformer(
    input_shape: tuple[int, int],
    *,
    norm: str = "layer",
    vocabulary: int = VOCABULARY,
    width: int = WIDTH,
    depth: int = DEPTH,
    heads: int = HEADS,
    causal: bool = False,
) -> Stages:
    """Stages tokens, block1 ... block`depth`, pool for samples (1, L); embedding `width`.

    With `causal` a token sees only what came before it (GPT); without, all of the window (BERT).
    """
    check_norm("token_transformer", norm)
    _check("token_transformer", input_shape, vocabulary)
    body = blocks("token_transformer", width, depth, heads, causal)
    return {"tokens": PlacedTokens(vocabulary, width, input_shape[1]), **body, "pool": TokenMean(width)}


def word_vectors(input_shape: tuple[int, int], *, vocabulary: int = VOCABULARY, width: int = WIDTH) -> Stages:
    """Stages tokens, pool for samples (1, L): one vector per id, the embedding is the mean of those in the window.

    The model of Word2Vec (Mikolov et al. 2013, https://arxiv.org/abs/1301.3781), read out as fastText does a text.
    """
    _check("word_vectors", input_shape, vocabulary)
    if type(width) is not int or width < 1:
        raise ConfigError(f"word_vectors width: expected an integer of at least 1, found {width!r}")
    return {"tokens": TokenEmbedding(vocabulary, width), "pool": BagMean()}


def _check(encoder: str, input_shape: tuple[int, int], vocabulary: int) -> None:
    if input_shape[0] != 1:
        raise ConfigError(f"{encoder}: expected the shape of one window of ids (1, L), found {tuple(input_shape)}")
    if type(vocabulary) is not int or vocabulary < 2:
        raise ConfigError(f"{encoder} vocabulary: expected an integer of at least 2, found {vocabulary!r}")
