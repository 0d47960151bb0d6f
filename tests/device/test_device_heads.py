"""Heads for few labels and novelty, against scikit-learn, scipy and closed forms."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier

from edgessl.device.drift.compensation import Displacement
from edgessl.device.heads.classifiers import CLASSIFIERS, Lda, LdaStatistics, Logistic, rejection_threshold, softmax
from edgessl.device.heads.few_label import UNKNOWN, FewLabelHead
from edgessl.device.heads.novelty import MahalanobisNovelty, unit
from edgessl.device.heads.prototypes import PrototypeHead
from edgessl.errors import BudgetError, ConfigError, InputError, StateMismatchError


def clusters(n, seed=0, dim=6, labels=4, spread=0.4):
    """Embeddings around `labels` fixed directions, and their labels."""
    centres = np.random.default_rng(99).normal(size=(labels, dim))
    owners = np.arange(n) % labels
    z = centres[owners] + spread * np.random.default_rng(seed).normal(size=(n, dim))
    return z.astype(np.float32), owners


def same(x):
    return x


def enrolled(head, z, owners):
    for row, owner in zip(z, owners, strict=True):
        head.enroll(row, f"label {owner}")
    return head


def answered(head, z):
    return np.array([int(p.label.split()[1]) for p in head.classify(z)])


def test_streaming_lda_has_the_statistics_and_the_answers_of_the_batch():
    z, owners = clusters(92, spread=1.0)
    statistics = LdaStatistics(6)
    order = np.argsort(owners, kind="stable")
    for row, owner in zip(z[order].astype(float), owners[order], strict=True):
        statistics.add(row, int(owner))
    means = np.stack([z[owners == k].mean(0) for k in range(4)])
    within = z - means[owners]
    np.testing.assert_allclose(statistics.means, means, rtol=1e-5)
    np.testing.assert_allclose(statistics.scatter, within.T @ within, rtol=1e-4, atol=1e-4)
    # scikit-learn's shrinkage is ours: (1 - s) cov + s trace(cov) / D; its covariance divides by N, ours by N - K
    directions = unit(z)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01, priors=[0.25] * 4).fit(directions, owners)
    queries, _ = clusters(200, 1, spread=1.0)
    ours = Lda(z.astype(float), owners).logits(queries.astype(float))
    expected = reference.decision_function(unit(queries)) * (92 - 4) / 92
    np.testing.assert_allclose(ours - ours[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


def test_logistic_finds_the_minimum():
    z, owners = clusters(40, spread=0.8)
    x, target = unit(z), np.eye(4)[owners]

    def loss(w):
        w = w.reshape(4, 7)
        return -(np.log(softmax(x @ w[:, :6].T + w[:, 6])) * target).sum(1).mean() + 5e-4 * (w[:, :6] ** 2).sum()

    best = minimize(loss, np.zeros(28), method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000})
    head = Logistic(z.astype(float), owners)
    assert loss(head._weights.ravel()) - best.fun < 1e-6
    queries, _ = clusters(100, 1, spread=0.8)
    ours = softmax(head.logits(queries.astype(float)))
    w = best.x.reshape(4, 7)
    np.testing.assert_allclose(ours, softmax(unit(queries) @ w[:, :6].T + w[:, 6]), atol=2e-3)


def test_neighbours_vote_as_scikit_learn_says():
    z, owners = clusters(64, spread=0.9)
    weigh = lambda distance: np.exp((1 - distance**2 / 2) / 0.1)  # noqa: E731  chord to cosine
    reference = KNeighborsClassifier(5, weights=weigh).fit(unit(z), owners)
    head = enrolled(FewLabelHead(10_000, (6,), same, "knn"), z, owners)
    queries, _ = clusters(200, 1, spread=0.9)
    expected = reference.predict_proba(unit(queries))
    found = head.classify(queries)
    np.testing.assert_array_equal([int(p.label.split()[1]) for p in found], expected.argmax(1))
    np.testing.assert_allclose([p.confidence for p in found], expected.max(1), rtol=1e-5)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_every_head_learns_clusters_and_survives_a_changed_encoder(kind):
    z, owners = clusters(24)
    turn = [np.eye(6)]
    head = enrolled(FewLabelHead(10_000, (6,), lambda x: (x @ turn[0]).astype(np.float32), kind), z, owners)
    queries, truth = clusters(200, 1)
    assert (answered(head, queries) == truth).mean() > 0.97
    turn[0] = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    head.invalidate()
    assert (answered(head, queries @ turn[0]) == truth).mean() > 0.97
    one = head.classify(queries @ turn[0])[0]
    assert 0 < one.confidence <= 1
    assert -1 <= one.similarity <= 1


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_rejection_keeps_its_promise(kind):
    """At most the share of familiar samples is unknown (on average over draws), and most of what is strange."""
    familiar, strange = [], []
    for seed in range(12):
        z, owners = clusters(48, seed)
        head = enrolled(FewLabelHead(10_000, (6,), same, kind, reject=0.1), z, owners)
        familiar += [p.label == UNKNOWN for p in head.classify(clusters(200, 100 + seed)[0])]
        odd = np.random.default_rng(seed).normal(size=(200, 6)).astype(np.float32)
        odd -= np.maximum(unit(odd) @ unit(clusters(4, spread=0)[0]).T, 0) @ clusters(4, spread=0)[0]  # away from all
        strange += [p.label == UNKNOWN for p in head.classify(odd.astype(np.float32))]
    assert 0.03 < np.mean(familiar) < 0.13
    assert np.mean(strange) > 0.8


def test_rejection_threshold_is_the_conformal_quantile():
    similarities = np.random.default_rng(0).permutation(np.arange(1, 20) / 20)
    assert rejection_threshold(similarities, 0.05) == 1 / 20
    assert rejection_threshold(similarities, 0.1) == 2 / 20
    assert rejection_threshold(similarities[:18], 0.05) == -np.inf  # too few to be sure of anything
    assert rejection_threshold(similarities, 0.0) == -np.inf


@pytest.mark.parametrize("kind", ["ncm", "knn"])
def test_leave_one_out_is_leaving_one_out(kind):
    z, owners = clusters(13, labels=3, spread=0.8)
    wide = z.astype(float)
    expected = []
    for i in range(13):
        rest = np.arange(13) != i
        expected.append(CLASSIFIERS[kind](wide[rest], owners[rest]).similarity(wide[[i]]).max())
    np.testing.assert_allclose(CLASSIFIERS[kind](wide, owners).leave_one_out(), expected)
    lonely = np.append(owners, 3)
    assert len(CLASSIFIERS[kind](np.append(wide, [np.ones(6)], 0), lonely).leave_one_out()) == 13


def turned(degrees):
    """Rotation of a 6-dimensional embedding by so much in three planes."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.kron(np.eye(3), [[c, -s], [s, c]])


@pytest.mark.parametrize("kind", PrototypeHead.KINDS)
def test_prototypes_follow_the_encoder_without_exemplars(kind):
    """Ten steps of 12 degrees: compensated prototypes stay right, the same left alone are wrong."""
    z, owners = clusters(40)
    queries, truth = clusters(300, 1)
    memory, _ = clusters(64, 2)
    accuracy = {}
    for told in (True, False):
        turn = [np.eye(6)]
        head = enrolled(PrototypeHead(6, lambda x, turn=turn: (x @ turn[0]).astype(np.float32), kind), z, owners)
        for _ in range(10):
            before = memory @ turn[0]
            turn[0] = turn[0] @ turned(12)
            head.invalidate(Displacement(before, memory @ turn[0]) if told else None)
        accuracy[told] = (answered(head, queries @ turn[0]) == truth).mean()
    assert accuracy[True] > (0.9 if kind == "ncm" else 0.8)  # the covariance does not turn
    assert accuracy[False] < 0.6


def test_prototypes_without_change_are_those_of_all_samples():
    z, owners = clusters(100)
    head = enrolled(PrototypeHead(6, same), z, owners)
    means = unit(np.stack([unit(z)[owners == k].mean(0) for k in range(4)]))
    queries, _ = clusters(50, 1)
    np.testing.assert_allclose([p.similarity for p in head.classify(queries)], (unit(queries) @ means.T).max(1))
    slda = enrolled(PrototypeHead(6, same, "slda"), z, owners)
    expected = Lda(z.astype(float), owners).logits(queries.astype(float))
    np.testing.assert_array_equal(answered(slda, queries), expected.argmax(1))
    again = PrototypeHead(6, same, "slda")
    again.restore({k: v.copy() for k, v in slda.tensors().items()}, slda.labels)
    assert again.classify(queries) == slda.classify(queries)


def test_errors():
    with pytest.raises(ConfigError, match="unknown head 'svm'; choose one of ncm, knn"):
        FewLabelHead(100, (1,), same, "svm")
    with pytest.raises(ConfigError, match="unknown head 'knn'; choose one of ncm, slda"):
        PrototypeHead(6, same, "knn")
    with pytest.raises(ConfigError, match="reject"):
        FewLabelHead(100, (1,), same, reject=0.6)
    with pytest.raises(ConfigError, match="exemplar_bytes"):
        PrototypeHead(6, same, reject=0.1)
    with pytest.raises(InputError, match="unknown"):
        FewLabelHead(100, (1,), same, reject=0.1).enroll(np.ones(1, np.float32), UNKNOWN)
    head = PrototypeHead(2, same)
    with pytest.raises(InputError, match="nothing is enrolled"):
        head.classify(np.ones((1, 2), np.float32))
    with pytest.raises(StateMismatchError, match="exemplar_bytes"):
        head.restore(FewLabelHead(100, (2,), same).tensors(), [])
    with pytest.raises(BudgetError, match="256 labels"):
        enrolled(head, np.ones((257, 2), np.float32), range(257))


def test_mahalanobis_is_that_of_scikit_learn_and_left_out_exactly():
    bank, _ = clusters(30, spread=0.7)
    novelty = MahalanobisNovelty(bank)
    z = unit(bank)
    ridge = 0.1 * ((z - z.mean(0)) ** 2).mean() * np.eye(6)

    def distance(rows, point):
        found = EmpiricalCovariance().fit(rows)
        covariance = found.covariance_ * len(rows) / (len(rows) - 1) + ridge
        return np.sqrt((point - rows.mean(0)) @ np.linalg.solve(covariance, point - rows.mean(0)))

    alone = [distance(np.delete(z, i, 0), z[i]) for i in range(30)]
    queries = clusters(5, 3)[0] * 2
    expected = (np.array([distance(z, q) for q in unit(queries)]) - np.mean(alone)) / np.std(alone)
    np.testing.assert_allclose(novelty.score(queries), expected, rtol=1e-6)
    with pytest.raises(InputError, match="found 7"):
        MahalanobisNovelty(bank[:7])
