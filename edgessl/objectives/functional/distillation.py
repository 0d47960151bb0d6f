"""Losses against a teacher or against the other view of the network itself: no negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgessl.objectives.functional.clustering import cross_view_entropy
from edgessl.objectives.functional.rows import normalize, require_rows


def negative_cosine_loss(p: Tensor, z: Tensor) -> Tensor:
    """Mean negative cosine similarity of rows (SimSiam, eq. 1; BYOL's loss is `2 + 2 x` this). In [-1, 1]."""
    return -(normalize(p) * normalize(z)).sum(dim=1).mean()


def dino_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    centre: Tensor,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
) -> Tensor:
    """DINO (Caron et al. 2021, eq. 1-3): every view of the student predicts every other view of the teacher.

    The centre is the caller's: it follows the mean of the teacher's outputs and is used before it takes in this batch
    (the authors' order, so that the first step has the initial centre).

    Args:
        student: prototype scores `(N, K)` per view, the global views first, then the local ones.
        teacher: prototype scores `(N, K)` of the global views; no gradient.
        centre: `(K,)`, subtracted from the teacher's scores.
        student_temperature, teacher_temperature: softmax temperatures, > 0; the teacher's the lower (sharpening).

    Returns:
        Scalar cross-entropy, mean over samples and over the pairs of different views.
    """
    targets = [torch.softmax((t - centre) / teacher_temperature, dim=1) for t in teacher]
    return cross_view_entropy([s / student_temperature for s in student], targets)


def koleo_loss(z: Tensor, eps: float = 1e-8) -> Tensor:
    """KoLeo regulariser (Sablayrolles et al. 2019; DINOv2): minus the mean log distance to the nearest row.

    Spreads embeddings over the sphere. Without the factor N inside the logarithm, a constant (as DINOv2's code).

    Args:
        z: embeddings `(N, D)`; normalised here.
        eps: added to the distance, so that duplicates give a large number and a zero gradient.

    Returns:
        Scalar loss.

    Raises:
        InputError: N < 2; a sample alone has no neighbour.
    """
    require_rows(z, 2, "koleo_loss")
    z = normalize(z)
    itself = torch.eye(z.shape[0], dtype=z.dtype, device=z.device)
    nearest = (z @ z.T - 4.0 * itself).argmax(dim=1)  # a cosine is at least -1, minus 4 never the largest
    picked = (nearest.unsqueeze(1) == torch.arange(z.shape[0], device=z.device)).to(z.dtype)
    # the difference of the rows, not 2 - 2 cos, which loses its digits where rows are close; 1e-20 keeps the root's
    # gradient finite
    distance = torch.sqrt((z - picked @ z).square().sum(dim=1) + 1e-20)
    return -torch.log(distance + eps).mean()
