"""What the losses must be where the answer is known on paper, their gradients, and their symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgessl.evaluate import rankme
from edgessl.objectives.functional import (
    effective_rank,
    embedding_std,
    info_nce_loss,
    negative_cosine_loss,
    normalize,
    nt_xent_loss,
    vicreg_loss,
)

torch.set_num_threads(1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def info_nce(a: Tensor, b: Tensor) -> Tensor:
    return info_nce_loss(a, b, normalize(draw(7, a.shape[1], seed=9)), 0.3)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": nt_xent_loss,
    "info_nce": info_nce,
    "negative_cosine": negative_cosine_loss,
    "vicreg": vicreg_loss,
}
SCALE_FREE = ("nt_xent", "info_nce", "negative_cosine")


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name: str) -> None:
    # scaled so that some standard deviations are within VICReg's hinge and some beyond
    a, b = (draw(5, 4, seed=s) * torch.tensor([0.2, 0.6, 1.5, 3.0]) for s in (1, 2))
    assert torch.autograd.gradcheck(LOSSES[name], (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_samples_does_not_matter(name: str) -> None:
    a, b, order = draw(6, 5, seed=1), draw(6, 5, seed=2), [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(LOSSES[name](a[order], b[order]), LOSSES[name](a, b), rtol=1e-12, atol=0)
    # but which row goes with which does
    assert abs(LOSSES[name](a[order], b) - LOSSES[name](a, b)) > 1e-3


@pytest.mark.parametrize("name", ["nt_xent", "negative_cosine", "vicreg"])
def test_the_views_may_be_exchanged(name: str) -> None:
    a, b = draw(6, 5, seed=1), draw(6, 5, seed=2)
    torch.testing.assert_close(LOSSES[name](a, b), LOSSES[name](b, a), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_lengths_of_rows_do_not_matter(name: str) -> None:
    a, b = draw(6, 5, seed=1), draw(6, 5, seed=2)
    lengths = torch.tensor([[1e-3], [0.1], [1.0], [7.0], [100.0], [1e4]], dtype=torch.float64)
    torch.testing.assert_close(LOSSES[name](a * lengths, b * lengths.flip(0)), LOSSES[name](a, b), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["zeros", "all the same"])
def test_collapsed_embeddings_give_finite_numbers(name: str, kind: str) -> None:
    z = torch.zeros(6, 5) if kind == "zeros" else torch.ones(6, 5)
    z = z.requires_grad_()
    value = LOSSES[name](z, z) if name != "info_nce" else info_nce_loss(z, z, torch.eye(5))
    (gradient,) = torch.autograd.grad(value, z)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_nt_xent_of_identical_embeddings_is_log_of_the_number_of_candidates(n: int, temperature: float) -> None:
    z = torch.ones(n, 4, dtype=torch.float64)
    assert float(nt_xent_loss(z, z, temperature)) == pytest.approx(math.log(2 * n - 1), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_of_orthogonal_pairs(temperature: float) -> None:
    n = 4
    z = torch.eye(n, dtype=torch.float64)
    # one candidate at cosine 1, the other 2n - 2 at cosine 0
    expected = math.log(math.exp(1 / temperature) + 2 * n - 2) - 1 / temperature
    assert float(nt_xent_loss(z, z, temperature)) == pytest.approx(expected, rel=1e-12)


def test_info_nce_of_orthogonal_negatives() -> None:
    q, queue, t = torch.eye(3, 8, dtype=torch.float64), torch.eye(8, dtype=torch.float64)[3:], 0.2
    assert float(info_nce_loss(q, q, queue, t)) == pytest.approx(math.log(math.exp(1 / t) + 5) - 1 / t, rel=1e-9)
    # an empty queue leaves the positive alone
    assert float(info_nce_loss(q, -q, queue[:0], t)) == pytest.approx(0, abs=1e-12)


def test_negative_cosine_at_known_angles() -> None:
    x = draw(5, 4)
    assert float(negative_cosine_loss(x, 3 * x)) == pytest.approx(-1, abs=1e-12)
    assert float(negative_cosine_loss(x, -x)) == pytest.approx(1, abs=1e-12)
    assert float(negative_cosine_loss(torch.eye(4), torch.eye(4).roll(1, 0))) == 0


def test_vicreg_terms_vanish_where_they_should() -> None:
    n, d = 64, 4
    random = np.random.default_rng(0).standard_normal((n, d))
    q = np.linalg.qr(np.c_[np.ones(n), random])[0][:, 1:]  # orthonormal columns of mean zero
    white = torch.from_numpy(q * math.sqrt(n - 1))  # unit unbiased variance, no correlation
    assert float(vicreg_loss(white, white, 1, 1, 1, eps=0.0)) == pytest.approx(0, abs=1e-12)
    # variance: a constant column misses the hinge's 1 by itself, eps apart
    flat = torch.cat([white, torch.zeros(n, 1, dtype=torch.float64)], 1)
    assert float(vicreg_loss(flat, flat, 0, 1, 0, eps=1e-4)) == pytest.approx((1 - 1e-2) / (d + 1), abs=1e-12)
    # covariance: two equal columns of unit variance have 2 off-diagonal ones, over d, in both views
    twin = torch.cat([white, white[:, :1]], 1)
    assert float(vicreg_loss(twin, twin, 0, 0, 1)) == pytest.approx(2 * 2 / (d + 1), rel=1e-12)
    # invariance: a mean, not a sum
    assert float(vicreg_loss(white, white + 0.5, 1, 0, 0)) == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(64, 4), (64, 16), (9, 40)])
def test_effective_rank_of_isotropic_embeddings(n: int, d: int) -> None:
    rank = min(n - 1, d)
    basis = np.linalg.qr(np.c_[np.ones(n), np.random.default_rng(1).standard_normal((n, rank))])[0][:, 1:]
    right = np.linalg.qr(np.random.default_rng(2).standard_normal((d, rank)))[0].T
    h = torch.from_numpy(basis @ right)
    assert float(effective_rank(h)) == pytest.approx(rank, rel=1e-9)
    assert float(effective_rank(h + 5.0)) == pytest.approx(rank, rel=1e-9)  # centred first


def test_effective_rank_of_a_line_is_one() -> None:
    assert float(effective_rank(draw(20, 1) @ draw(1, 6))) == pytest.approx(1, rel=1e-9)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(n=st.integers(2, 12), d=st.integers(1, 12), seed=st.integers(0, 1000))
def test_effective_rank_is_the_participation_ratio_of_the_spectrum(n: int, d: int, seed: int) -> None:
    h = draw(n, d, seed=seed)
    spectrum = np.linalg.svd(h.numpy() - h.numpy().mean(0), compute_uv=False) ** 2
    expected = spectrum.sum() ** 2 / (spectrum**2).sum()
    assert float(effective_rank(h)) == pytest.approx(expected, rel=1e-6)
    assert 1 - 1e-6 <= float(effective_rank(h)) <= min(n - 1, d) + 1e-6


def test_embedding_std_of_isotropic_and_of_collapsed_embeddings() -> None:
    d = 5
    both_signs = torch.cat([torch.eye(d), -torch.eye(d)]).double()
    assert float(embedding_std(both_signs)) == pytest.approx(1, abs=1e-9)
    assert float(embedding_std(17 * both_signs)) == pytest.approx(1, abs=1e-9)
    assert float(embedding_std(torch.ones(8, d))) < 1e-5
    assert float(embedding_std(draw(20_000, d))) == pytest.approx(1, abs=0.02)


def test_rankme_closed_forms() -> None:
    assert rankme(np.eye(6)) == pytest.approx(6, rel=1e-4)
    assert rankme(np.outer(np.arange(1, 5), [1.0, -2.0, 0.5])) == pytest.approx(1, abs=1e-4)
    # singular values 3 and 1: exp of the entropy of (3/4, 1/4)
    assert rankme(np.diag([3.0, 1.0])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25, rel=1e-5)
    assert rankme(7 * np.diag([3.0, 1.0])) == pytest.approx(rankme(np.diag([3.0, 1.0])), rel=1e-9)
