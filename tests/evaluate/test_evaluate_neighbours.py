"""Neighbours, retrieval and zero-shot against golden values, brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from edgessl.errors import InputError
from edgessl.evaluate import class_retrieval, knn_predict, paired_recall, zero_shot_predict

N = np.arange(1, 31, dtype=np.float64).reshape(6, 5)
A, B, C = np.sin(N), np.sin(N) + 0.3 * np.cos(2 * N), np.cos(N)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_knn_golden(k: int) -> None:
    """lightly's `knn_predict` on these arrays (ssl_reference.md, 3.3)."""
    assert knn_predict(A, np.arange(6) % 3, C, k=k, temperature=0.1).tolist() == [1, 0, 1, 2, 0, 1]


def test_paired_recall_is_the_rank_of_the_pair() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 6))
    b = a + 1.5 * rng.standard_normal((40, 6))
    similar = cosine(a, b)
    rank = (similar > np.diag(similar)[:, None]).sum(1)
    found = paired_recall(a, b)
    for k in (1, 5, 10):
        assert found[f"R@{k}"] == pytest.approx((rank < k).mean())
    assert 0 < found["R@1"] < found["R@10"] < 1
    back = (similar > np.diag(similar)[None]).sum(0)
    assert paired_recall(b, a)["R@5"] == pytest.approx((back < 5).mean())


def test_a_collapsed_encoder_retrieves_nothing() -> None:
    same = np.ones((20, 4))
    assert paired_recall(same, same) == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}
    assert paired_recall(A, A)["R@1"] == 1.0
    with pytest.raises(InputError, match="one shape"):
        paired_recall(A, A[:3])


def test_class_retrieval_is_sklearns_average_precision() -> None:
    rng = np.random.default_rng(1)
    gallery, queries = rng.standard_normal((50, 4)), rng.standard_normal((300, 4))
    labels, truth = rng.integers(0, 3, 50), rng.integers(0, 4, 300)  # class 3 is not in the gallery: left out
    similar, known = cosine(queries, gallery), truth < 3
    precisions = [average_precision_score(labels == t, s) for t, s in zip(truth[known], similar[known], strict=True)]
    found = class_retrieval(queries, truth, gallery, labels)
    assert found["mAP"] == pytest.approx(np.mean(precisions))
    first = labels[similar[known].argmax(1)] == truth[known]
    assert found["R@1"] == pytest.approx(first.mean())
    with pytest.raises(InputError, match="none of the queries' classes"):
        class_retrieval(queries, truth + 9, gallery, labels)


def test_zero_shot_takes_its_classes_from_the_other_tower() -> None:
    prompts = np.array([[1.0, 0], [3, 0.3], [0, 1], [0.1, 0.9]])
    labels = np.array([7, 7, 4, 4])
    queries = np.array([[5.0, 1], [0.2, 0.3], [0.1, 8]])
    assert zero_shot_predict(queries, prompts, labels).tolist() == [7, 4, 4]
    # prototypes are means of unit vectors: a long prompt does not weigh more
    long = np.array([[100.0, 0], [0, 1], [0, 1]])
    assert zero_shot_predict(np.array([[0.4, 0.6]]), long, np.array([0, 0, 1])).tolist() == [0]
