"""The losses against values computed elsewhere: lightly and the authors' code, in float64, without randomness.

A = sin n, B = A + 0.3 cos 2n, C = cos n for n = 1 .. 30, as 6 samples of 5 dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from edgessl.evaluate import rankme
from edgessl.objectives.functional import (
    barlow_twins_loss,
    dcl_loss,
    dino_loss,
    embedding_std,
    info_nce_loss,
    koleo_loss,
    negative_cosine_loss,
    normalize,
    nt_xent_loss,
    sinkhorn,
    swav_loss,
    tico_loss,
    vicreg_loss,
)

torch.set_num_threads(1)

N = torch.arange(1, 31, dtype=torch.float64).reshape(6, 5)
A, C = torch.sin(N), torch.cos(N)
B = A + 0.3 * torch.cos(2 * N)
BANK = normalize(torch.cos(torch.arange(1, 21, dtype=torch.float64)).reshape(4, 5))


def dino(a: Tensor, b: Tensor, calls: int) -> Tensor:
    """The loss of that many calls with the same embeddings, students [B, A, C], the centre following at 0.9."""
    centre = a.new_zeros(5)
    for _ in range(calls - 1):
        centre = 0.9 * centre + 0.1 * torch.cat([a, b]).mean(dim=0)
    return dino_loss([b, a, C.to(a.dtype)], [a, b], centre, 0.1, 0.04)


def swav(a: Tensor, b: Tensor, *low_resolution: Tensor) -> Tensor:
    return swav_loss([a, b, *low_resolution], [sinkhorn(a), sinkhorn(b)], 0.1)


Value = Callable[[Tensor, Tensor, Tensor], Tensor]
GOLDEN: dict[str, tuple[Value, float]] = {
    "nt_xent, temperature 0.1": (lambda a, b, bank: nt_xent_loss(a, b, 0.1), 0.4039635765),
    "nt_xent, temperature 0.5": (lambda a, b, bank: nt_xent_loss(a, b, 0.5), 1.1049868322),
    "info_nce of MoCo": (lambda a, b, bank: info_nce_loss(a, b, bank, 0.2), 0.6292617134),
    "negative cosine": (lambda a, b, bank: negative_cosine_loss(a, b), -0.9601400439),
    "BYOL": (lambda a, b, bank: 2 + 2 * negative_cosine_loss(a, b), 2 - 2 * 0.9601400439),
    "vicreg": (lambda a, b, bank: vicreg_loss(a, b), 7.6366999059),
    "vicreg, invariance": (lambda a, b, bank: vicreg_loss(a, b, 1.0, 0.0, 0.0), 0.0446613449),
    # both terms see the same view twice: the variance is averaged over views, the covariance summed
    "vicreg, variance of A": (lambda a, b, bank: vicreg_loss(a, a, 0.0, 1.0, 0.0), 0.2276352924),
    "vicreg, covariance of A": (lambda a, b, bank: vicreg_loss(a, a, 0.0, 0.0, 1.0) / 2, 0.6443634594),
    "DCL": (lambda a, b, bank: dcl_loss(a, b, 0.5), 0.6717454217),
    "Barlow Twins": (lambda a, b, bank: barlow_twins_loss(a, b), 0.0481843112),
    "TiCo": (lambda a, b, bank: tico_loss(a, b, a.new_zeros(5, 5))[0], 0.4693897540),
    "DINO, first call": (lambda a, b, bank: dino(a, b, 1), 4.6524626697),
    "DINO, second call": (lambda a, b, bank: dino(a, b, 2), 4.7103972013),
    "SwAV": (lambda a, b, bank: swav(a, b), 0.6656630136),
    "SwAV, a low-resolution view": (lambda a, b, bank: swav(a, b, C.to(a.dtype)), 4.8882306773),
    "Sinkhorn, first": (lambda a, b, bank: sinkhorn(a)[0, 0], 0.5025704180),
    "Sinkhorn, second": (lambda a, b, bank: sinkhorn(a)[0, 1], 0.4974294512),
    "Sinkhorn, third": (lambda a, b, bank: sinkhorn(a)[0, 2], 1.308e-7),
    "KoLeo": (lambda a, b, bank: koleo_loss(a), 0.7231063462),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_float64_reference_value(name: str) -> None:
    compute, expected = GOLDEN[name]
    assert float(compute(A, B, BANK)) == pytest.approx(expected, abs=1e-9 if "BYOL" not in name else 2e-9)


@pytest.mark.parametrize("name", GOLDEN)
def test_float32_agrees_with_float64(name: str) -> None:
    compute, expected = GOLDEN[name]
    value = compute(A.float(), B.float(), BANK.float())
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_temperature_may_be_a_tensor() -> None:
    hot = torch.tensor(0.5, dtype=torch.float64)
    assert float(nt_xent_loss(A, B, hot)) == pytest.approx(1.1049868322, abs=1e-9)
    assert float(info_nce_loss(A, B, BANK, hot)) == float(info_nce_loss(A, B, BANK, 0.5))


def test_embedding_std_is_lightlys_with_the_biased_std_and_times_root_d() -> None:
    # lightly's std_of_l2_normalized takes the unbiased std (divisor N - 1) and does not scale by sqrt(D)
    n, d = A.shape
    lightly = 0.4813138145
    assert float(embedding_std(A)) == pytest.approx(lightly * np.sqrt(d * (n - 1) / n), abs=1e-9)


def test_rankme() -> None:
    assert rankme(A.numpy(), eps=1e-7) == pytest.approx(1.9617423164, abs=1e-9)
    assert rankme(A.numpy()) == rankme(A.numpy(), eps=1e-7)
