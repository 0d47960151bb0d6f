"""What skip-gram and CBOW share: neighbourhoods of words, and false words drawn by their frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.encoders.tokens import one_hot

POWER = 0.75  # of the unigram distribution that false words are drawn from (Mikolov et al. 2013b, section 2.2)


def neighbourhood(places: int, radius: int, like: Tensor) -> Tensor:
    """`(L, L)`: 1 where two different places are at most `radius` apart, else 0; dtype and device of `like`."""
    at = torch.arange(places, device=like.device)
    distance = (at.unsqueeze(0) - at.unsqueeze(1)).abs()
    return ((distance > 0) & (distance <= radius)).to(like.dtype)


def false_words(u: Tensor, frequency: Tensor, places: int) -> Tensor:
    """Words drawn in proportion to `frequency ** 0.75`: how often each was, at each place, `(N, L, V)`.

    Args:
        u: uniform noise `(N, L * k)`, k draws for each of the `places` L.
        frequency: counts or shares of the words `(V,)`; a word that is not there is never drawn.
    """
    # 0 ** 0.75 is 0, but written with a logarithm it would not be
    weights = torch.where(frequency > 0, frequency.clamp(min=1e-12) ** POWER, torch.zeros_like(frequency))
    upper = torch.cumsum(weights, 0) / weights.sum()
    lower = torch.cat([torch.zeros_like(upper[:1]), upper[:-1]])
    drawn = ((u.unsqueeze(2) >= lower) & (u.unsqueeze(2) < upper)).to(u.dtype)
    return drawn.reshape(u.shape[0], places, -1, frequency.shape[0]).sum(dim=2)


def words(ids: Tensor, vocabulary: int) -> Tensor:
    """One-hot rows `(N, L, V)` of samples `(N, 1, L)`."""
    return one_hot(ids.squeeze(1), vocabulary)
