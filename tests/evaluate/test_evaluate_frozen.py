"""Evaluation against brute force and cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.encoders import build_encoder
from edgessl.evaluate import embed, knn_accuracy, knn_predict, linear_probe


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(3, 30), classes=st.integers(2, 4), k=st.integers(1, 40), seed=st.integers(0, 999))
def test_knn_is_the_weighted_vote(n: int, classes: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bank, queries = rng.standard_normal((n, 5)), rng.standard_normal((7, 5))
    labels = rng.permutation(np.arange(n) % classes)
    cosine = (bank / np.linalg.norm(bank, axis=1)[:, None]) @ (queries / np.linalg.norm(queries, axis=1)[:, None]).T
    for found, similar in zip(knn_predict(bank, labels, queries, k, temperature=0.2), cosine.T, strict=True):
        near = np.argsort(-similar)[:k]
        votes = np.bincount(labels[near], np.exp(similar[near] / 0.2), minlength=classes)
        assert votes[found] == pytest.approx(votes.max())


def test_knn_weighs_near_neighbours_more_than_many_far_ones() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [0.05, 1.0]])
    labels, query = np.array([3, 8, 8]), np.array([[1.0, 0.01]])
    assert knn_predict(bank, labels, query, k=3, temperature=0.1).tolist() == [3]
    assert knn_predict(bank, labels, query, k=3, temperature=100.0).tolist() == [8]  # all but a plain vote


def test_accuracies() -> None:
    bank = np.array([[1.0, 0], [0, 1.0]])
    queries, truth = np.array([[2.0, 0.1], [3, 0.2], [1, 0.1], [0.9, 1]]), np.array([0, 0, 1, 1])
    assert knn_accuracy(bank, np.array([0, 1]), queries, truth, k=1) == 0.75
    assert knn_accuracy(bank, np.array([0, 1]), queries, np.array([0, 0, 0, 0]), k=1) == 0.75
    # recalls 2/3 of class 0 and 1 of class 1
    uneven = np.array([0, 0, 1, 0])
    queries = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert knn_accuracy(bank, np.array([0, 1]), queries, uneven, k=1, balanced=True) == pytest.approx((2 / 3 + 1) / 2)
    assert knn_accuracy(bank, np.array([0, 1]), queries, uneven, k=1) == 0.75


def test_linear_probe_separates_what_is_linear_at_any_scale() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4)) * [1, 1e-4, 1e3, 1]
    y = (x[:, 1] > 0).astype(int)  # in the small dimension: standardising finds it
    assert linear_probe(x[:200], y[:200], x[200:], y[200:]) > 0.95
    noise = rng.integers(0, 2, 300)
    assert 0.3 < linear_probe(x[:200], noise[:200], x[200:], noise[200:], balanced=True) < 0.7


def test_embed_is_the_encoder_in_evaluation_mode_at_any_batch_size() -> None:
    encoder = build_encoder("ds_cnn_s", (1, 8, 8), norm="batch").train()
    x = np.random.default_rng(0).random((11, 1, 8, 8), np.float32)
    found = embed(encoder, x, batch_size=4)
    assert found.shape == (11, 128)
    assert found.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(found, encoder.eval()(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)
