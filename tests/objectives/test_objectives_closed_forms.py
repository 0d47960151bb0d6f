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

from edgessl.errors import InputError
from edgessl.evaluate import rankme
from edgessl.objectives.functional import (
    barlow_twins_loss,
    dcl_loss,
    dino_loss,
    effective_rank,
    embedding_std,
    in_batch_nce_loss,
    info_nce_loss,
    koleo_loss,
    minibatch_kmeans,
    negative_cosine_loss,
    normalize,
    nt_xent_loss,
    sinkhorn,
    swav_loss,
    tico_loss,
    vicreg_loss,
)

torch.set_num_threads(1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def info_nce(a: Tensor, b: Tensor) -> Tensor:
    return info_nce_loss(a, b, normalize(draw(7, a.shape[1], seed=9)), 0.3)


def dcl_with_queue(a: Tensor, b: Tensor) -> Tensor:
    return dcl_loss(a, b, 0.4, normalize(draw(7, a.shape[1], seed=9)).to(a.dtype))


def tico(a: Tensor, b: Tensor) -> Tensor:
    return tico_loss(a, b, torch.eye(a.shape[1], dtype=a.dtype) / a.shape[1])[0]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": nt_xent_loss,
    "info_nce": info_nce,
    "in_batch_nce": in_batch_nce_loss,
    "dcl": dcl_loss,
    "dcl_with_queue": dcl_with_queue,
    "negative_cosine": negative_cosine_loss,
    "vicreg": vicreg_loss,
    "barlow_twins": barlow_twins_loss,
    "tico": tico,
}
SYMMETRIC = ("nt_xent", "dcl", "dcl_with_queue", "negative_cosine", "vicreg", "barlow_twins")
SCALE_FREE = ("nt_xent", "info_nce", "in_batch_nce", "dcl", "dcl_with_queue", "negative_cosine", "tico")


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


@pytest.mark.parametrize("name", SYMMETRIC)
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


@pytest.mark.parametrize("n", [2, 3, 8])
def test_in_batch_losses_of_identical_embeddings_are_logs_of_the_number_of_candidates(n: int) -> None:
    z = torch.ones(n, 4, dtype=torch.float64)
    assert float(in_batch_nce_loss(z, z, 0.1)) == pytest.approx(math.log(n), abs=1e-12)
    # decoupled: the positive is not among the candidates
    assert float(dcl_loss(z, z, 0.1)) == pytest.approx(math.log(2 * n - 2), abs=1e-12)
    assert float(dcl_loss(z, z, 0.1, normalize(z[:2]))) == pytest.approx(math.log(2 * n), abs=1e-12)


def test_in_batch_losses_of_orthogonal_pairs() -> None:
    z, t = torch.eye(4, dtype=torch.float64), 0.5
    assert float(in_batch_nce_loss(z, z, t)) == pytest.approx(math.log(math.exp(1 / t) + 3) - 1 / t, rel=1e-12)
    assert float(dcl_loss(z, z, t)) == pytest.approx(math.log(6) - 1 / t, rel=1e-12)  # negative: no bound at zero


def test_decoupling_removes_the_factor_that_small_batches_suffer_from() -> None:
    # the gradient of NT-Xent towards the positive is that of DCL times 1 - p, p the positive's share of the softmax
    z_a, z_b, t = draw(2, 5, seed=3), draw(2, 5, seed=4), 0.5
    z_a, z_b = normalize(z_a + z_b), normalize(z_b)  # near each other, so that p is far from 0
    similarity = torch.cat([z_a, z_b]) @ torch.cat([z_a, z_b]).T / t
    anchor = 0
    others = torch.tensor([1, 3])
    share = torch.exp(similarity[anchor, 2]) / torch.exp(similarity[anchor, [1, 2, 3]]).sum()
    logits = similarity[anchor].clone().requires_grad_()
    (coupled,) = torch.autograd.grad(torch.logsumexp(logits[[1, 2, 3]], 0) - logits[2], logits)
    (decoupled,) = torch.autograd.grad(torch.logsumexp(logits[others], 0) - logits[2], logits)
    torch.testing.assert_close(coupled, (1 - share) * decoupled, rtol=1e-12, atol=1e-15)
    per_anchor = [
        torch.logsumexp(similarity[i, [j for j in range(4) if j % 2 != i % 2]], 0) - similarity[i, (i + 2) % 4]
        for i in range(4)
    ]
    assert float(dcl_loss(z_a, z_b, t)) == pytest.approx(float(torch.stack(per_anchor).mean()), rel=1e-12)


def white(n: int, d: int) -> Tensor:
    """Columns of mean 0 and biased variance 1, uncorrelated."""
    q = np.linalg.qr(np.c_[np.ones(n), np.random.default_rng(0).standard_normal((n, d))])[0][:, 1:]
    return torch.from_numpy(q * math.sqrt(n))


def test_barlow_twins_is_zero_where_the_correlation_is_the_identity() -> None:
    z = white(32, 4)
    assert float(barlow_twins_loss(z, z, eps=0.0)) == pytest.approx(0, abs=1e-15)
    # blind to shift and positive scale of every feature; eps apart
    assert float(barlow_twins_loss(z, 7 * z + 3, eps=0.0)) == pytest.approx(0, abs=1e-15)
    # features of opposite sign: every diagonal entry is -1, (-1 - 1)^2 each
    assert float(barlow_twins_loss(z, -z, eps=0.0)) == pytest.approx(4 * 4, rel=1e-12)
    # the same feature four times over: 12 off-diagonal ones
    same = z[:, :1].expand(-1, 4)
    assert float(barlow_twins_loss(same, same, 0.1, eps=0.0)) == pytest.approx(0.1 * 12, rel=1e-12)


def test_barlow_twins_diagonal_reaches_one_at_any_batch_size() -> None:
    # with the unbiased std and a division by N it stops at (N - 1) / N: 1/9 per feature for 3 samples
    z = white(3, 2)
    assert float(barlow_twins_loss(z, z, 0.0, eps=0.0)) == pytest.approx(0, abs=1e-15)


def test_tico_of_isotropic_embeddings() -> None:
    d = 4
    z = torch.eye(d, dtype=torch.float64)  # second moment I / d
    value, moment = tico_loss(z, z, torch.zeros(d, d, dtype=torch.float64), contrast=8.0, decay=0.0)
    assert float(value) == pytest.approx(8.0 / d, rel=1e-12)
    torch.testing.assert_close(moment, z / d, rtol=1e-12, atol=0)
    # collapsed ones pay the whole weight, whatever they agree on
    same = torch.ones(6, d, dtype=torch.float64)
    value, _ = tico_loss(same, same, torch.zeros(d, d, dtype=torch.float64), contrast=8.0, decay=0.0)
    assert float(value) == pytest.approx(8.0, rel=1e-12)


def test_sinkhorn_marginals() -> None:
    n, k = 12, 4
    scores = draw(n, k, seed=5)
    rough, exact = sinkhorn(scores, 0.5, 3), sinkhorn(scores, 0.5, 500)
    for q in (rough, exact):
        torch.testing.assert_close(q.sum(dim=1), torch.ones(n, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(exact.sum(dim=0), torch.full((k,), n / k, dtype=torch.float64), rtol=1e-9, atol=0)
    assert float((rough.sum(dim=0) - n / k).abs().max()) < 0.2 * n / k
    # it is diag(u) exp(scores / epsilon) diag(v): double ratios are those of the kernel
    ratio = exact[0, 0] * exact[1, 1] / (exact[0, 1] * exact[1, 0])
    kernel = (scores[0, 0] + scores[1, 1] - scores[0, 1] - scores[1, 0]) / 0.5
    assert float(ratio.log()) == pytest.approx(float(kernel), rel=1e-9)


def test_sinkhorn_does_not_overflow_where_the_exponential_does() -> None:
    scores = 40 * draw(8, 3, seed=6).float()
    assert torch.isinf(torch.exp(scores / 0.05)).any()
    q = sinkhorn(scores)
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(8), rtol=1e-5, atol=0)


@pytest.mark.parametrize("local", [0, 1, 3])
def test_views_that_say_nothing_cost_the_logarithm_of_the_number_of_prototypes(local: int) -> None:
    k = 7
    flat, codes = torch.zeros(5, k, dtype=torch.float64), sinkhorn(draw(5, k))
    assert float(swav_loss([flat] * (2 + local), [codes, codes])) == pytest.approx(math.log(k), rel=1e-12)
    assert float(dino_loss([flat] * (2 + local), [draw(5, k)] * 2, flat[0])) == pytest.approx(math.log(k), rel=1e-12)


def test_a_view_never_predicts_itself() -> None:
    # each view is certain of its own prototype and of nothing else's; with a share of its own the loss would be lower
    a, b = 50 * torch.eye(3, dtype=torch.float64)[:2]
    a, b = a.expand(4, -1), b.expand(4, -1)
    assert float(swav_loss([a, b], [torch.softmax(a, 1), torch.softmax(b, 1)], 1.0)) == pytest.approx(50, rel=1e-9)
    assert float(swav_loss([a, b], [torch.softmax(b, 1), torch.softmax(a, 1)], 1.0)) == pytest.approx(0, abs=1e-9)


def test_dino_centring_and_sharpening() -> None:
    k = 6
    constant = draw(1, k).expand(8, -1)
    student = torch.zeros(8, k, dtype=torch.float64)
    # a teacher that has collapsed to one output: centred on it, its targets are uniform
    uniform_targets = dino_loss([student, student], [constant, constant], constant[0])
    assert float(uniform_targets) == pytest.approx(math.log(k), rel=1e-12)
    # the lower its temperature, the nearer its targets are to one prototype: minus the log of a student's best
    scores = torch.tensor([[3.0, 1.0, 0.0]], dtype=torch.float64).expand(4, -1)
    hard = dino_loss([scores, scores], [scores, scores], scores.new_zeros(3), 1.0, 1e-3)
    assert float(hard) == pytest.approx(-math.log(math.exp(3) / (math.exp(3) + math.e + 1)), rel=1e-9)


def test_gradients_of_the_clustering_losses() -> None:
    views = [draw(4, 3, seed=s).requires_grad_() for s in (1, 2, 3)]
    codes, centre = sinkhorn(draw(4, 3)), draw(1, 3)[0]
    assert torch.autograd.gradcheck(lambda *v: swav_loss(v, [codes, codes.flip(0)]), views)
    assert torch.autograd.gradcheck(lambda *v: dino_loss(v, [draw(4, 3), draw(4, 3, seed=8)], centre), views)
    assert torch.autograd.gradcheck(koleo_loss, (draw(5, 3, seed=4).requires_grad_(),))


def test_koleo_at_known_distances() -> None:
    across = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert float(koleo_loss(across)) == pytest.approx(-math.log(2), abs=1e-7)
    assert float(koleo_loss(5 * torch.eye(3, dtype=torch.float64))) == pytest.approx(-math.log(math.sqrt(2)), abs=1e-7)
    twins = torch.ones(4, 3, requires_grad=True)
    value = koleo_loss(twins)
    assert value.item() == pytest.approx(-math.log(1e-8), rel=0.01)
    assert torch.isfinite(torch.autograd.grad(value, twins)[0]).all()


@pytest.mark.parametrize(
    "loss",
    [nt_xent_loss, in_batch_nce_loss, dcl_loss, vicreg_loss, barlow_twins_loss, lambda a, b: koleo_loss(a)],
)
def test_a_sample_alone_is_refused(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match="expected at least 2 samples, found 1; use a larger batch"):
        loss(draw(1, 4), draw(1, 4))
    assert torch.isfinite(dcl_loss(draw(1, 4), draw(1, 4), 0.5, normalize(draw(3, 4))))  # a queue is company


def test_kmeans_finds_clusters_that_are_there() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 6)
    rows = normalize(
        torch.from_numpy(centres[rng.integers(3, size=(40, 16))] + 0.05 * rng.standard_normal((40, 16, 6))).flatten(
            0, 1
        )
    ).reshape(40, 16, 6)
    centroids, counts = normalize(draw(3, 6, seed=3)), torch.ones(3, dtype=torch.float64)
    for batch in rows:
        centroids, counts, assignment = minibatch_kmeans(centroids, counts, batch, 0.9, 0.1)
        assert torch.equal(assignment.sum(dim=1), torch.ones(16, dtype=torch.float64))
    cosines = normalize(centroids) @ torch.from_numpy(centres).T
    assert float(cosines.max(dim=0).values.min()) > 0.99  # each is found, from wherever the centroids started
    assert sorted(cosines.argmax(dim=1).tolist()) == [0, 1, 2]
