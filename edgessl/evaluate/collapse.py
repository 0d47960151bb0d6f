"""Collapse diagnostics: what a loss does not show, from embeddings alone and without labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgessl.errors import InputError
from edgessl.evaluate.neighbours import unit

Array = np.ndarray[Any, np.dtype[Any]]
LIMIT = 4096  # embeddings that the pairwise and spectral figures are computed on, evenly spaced


def rankme(embeddings: Array, eps: float = 1e-7) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885, eq. 1): exponential of the entropy of the singular values.

    `embeddings` `(N, D)`, not centred, as in the paper; in [1, min(N, D)].
    """
    singular = np.linalg.svd(np.asarray(embeddings, np.float64), compute_uv=False)
    p = singular / singular.sum() + eps
    return float(np.exp(-(p * np.log(p)).sum()))


def spectrum(embeddings: Array) -> Array:
    """Singular values of the centred embeddings `(N, D)` divided by the largest, `(min(N, D),)`, falling.

    Dimensional collapse shows as a cliff (Jing et al. 2022, arXiv 2110.09348, figure 2). All zeros where every
    embedding is the same.
    """
    wide = np.asarray(embeddings, np.float64)
    singular: Array = np.linalg.svd(wide - wide.mean(0), compute_uv=False)
    return singular / singular[0] if singular[0] > 0 else singular


def dimension_std(embeddings: Array) -> Array:
    """Standard deviation of each dimension of the unit-length embeddings `(N, D)`, times sqrt(D): `(D,)`.

    About 1 for isotropic embeddings, 0 in a dimension that says nothing (SimSiam, Chen and He 2021, section 4.1).
    """
    deviation: Array = unit(embeddings).std(0) * np.sqrt(embeddings.shape[1])
    return deviation


def alignment(a: Array, b: Array, alpha: float = 2.0) -> float:
    """Alignment (Wang and Isola 2020, arXiv 2005.10242, section 4.1.1): mean `||a_i - b_i||^alpha` of unit rows.

    Rows i of `a` and `b` `(N, D)` embed two views of one sample. In [0, 2^alpha]; less is better, and 0 alone proves
    nothing: a collapsed encoder has it too.
    """
    if a.shape != b.shape:
        raise InputError(f"alignment: expected two arrays of one shape, found {a.shape} and {b.shape}")
    return float((np.linalg.norm(unit(a) - unit(b), axis=1) ** alpha).mean())


def uniformity(embeddings: Array, t: float = 2.0) -> float:
    """Uniformity (Wang and Isola 2020, section 4.1.2): `log mean exp(-t ||x_i - x_j||^2)` over pairs i < j.

    On unit rows `(N, D)`, N of 2 or more; in [-4 t, 0]. Less is better; 0 is one point.
    """
    if len(embeddings) < 2:
        raise InputError(f"uniformity needs 2 embeddings or more, found {len(embeddings)}")
    rows = unit(embeddings)
    upper = np.triu_indices(len(rows), 1)
    squared = np.maximum(2.0 - 2.0 * (rows @ rows.T)[upper], 0.0)
    return float(np.log(np.exp(-t * squared).mean()))


def diagnose(embeddings: Array, views: tuple[Array, Array] | None = None) -> dict[str, Any]:
    """Every figure of this file as plain JSON values, on at most LIMIT evenly spaced embeddings.

    views: embeddings of two views of the same samples, for the alignment.
    """
    chosen = embeddings[np.unique(np.linspace(0, len(embeddings) - 1, LIMIT).round().astype(np.int64))]
    deviation = dimension_std(chosen)
    return {
        "samples": len(chosen),
        "dimensions": int(embeddings.shape[1]),
        "rankme": rankme(chosen),
        "std_mean": float(deviation.mean()),
        "std_min": float(deviation.min()),
        "dead_dimensions": int((deviation < 1e-3).sum()),
        "uniformity": uniformity(chosen),
        "alignment": None if views is None else alignment(*views),
        "spectrum": spectrum(chosen).tolist(),
    }
