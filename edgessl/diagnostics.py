"""What to watch while an encoder learns: is it still telling samples apart?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from edgessl.evaluate.collapse import alignment, rankme, uniformity
from edgessl.step import METRICS

WATCHED = ("alignment", "uniformity", "rankme")
ROWS = 256  # samples that the watched figures are computed on: a few milliseconds
COLLAPSE_STD = 0.05  # embedding_std below which the embeddings have all but collapsed to a point
COLLAPSE_UNIFORMITY = -4 * COLLAPSE_STD**2  # what uniformity (t = 2) is, to first order, at that std
COLLAPSE_RANK = 1.5  # effective_rank below which they have collapsed to a line


def watch(embeddings: Tensor, batch_size: int) -> dict[str, float]:
    """`WATCHED` figures of a batch's encoder embeddings, by the definitions of `edgessl.evaluate`.

    Args:
        embeddings: `(M, D)`, the rows of one view after those of the other, M a multiple of `batch_size`.
        batch_size: samples in the batch; the first `ROWS` of them are looked at.

    Returns:
        Alignment of the first two views (NaN where there is one), uniformity and RankMe of the first; all NaN where
        an embedding is not finite.
    """
    views = [view[:ROWS].double().cpu().numpy() for view in embeddings.split(batch_size)[:2]]
    if not all(np.isfinite(view).all() for view in views):
        return dict.fromkeys(WATCHED, math.nan)
    with np.errstate(invalid="ignore"):  # embeddings that are all zero have no RankMe
        return {
            "alignment": alignment(views[0], views[1]) if len(views) == 2 else math.nan,
            "uniformity": uniformity(views[0]),
            "rankme": rankme(views[0]),
        }


def collapse_warning(figures: Mapping[str, float]) -> str | None:
    """What is wrong with the embeddings, in words, or None; `figures` holds METRICS and WATCHED."""
    if not all(math.isfinite(figures[name]) for name in METRICS):
        return "the loss or its gradient is not finite: lower the learning rate"
    std, spread = figures["embedding_std"], figures["uniformity"]
    if std < COLLAPSE_STD or spread > COLLAPSE_UNIFORMITY:
        return f"embeddings are collapsing to a point (std {std:.3f} of 1, uniformity {spread:.3f} of -4)"
    if figures["effective_rank"] < COLLAPSE_RANK or figures["rankme"] < COLLAPSE_RANK:
        ranks = f"effective rank {figures['effective_rank']:.2f}, RankMe {figures['rankme']:.2f}"
        return f"embeddings are collapsing to a line ({ranks})"
    return None
