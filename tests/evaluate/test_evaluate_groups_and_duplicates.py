"""Subgroups against published intervals and counts; contamination that is planted and must be found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgessl.errors import InputError
from edgessl.evaluate.contamination import (
    contamination,
    exact_duplicates,
    near_duplicates,
    perceptual_hash,
    sample_hashes,
    slight_copies,
)
from edgessl.evaluate.subgroups import by_group, subgroups, wilson


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (1, 29), (81, 263), (15, 148), (500, 1000)])
def test_wilson_bounds_are_where_the_score_test_turns(correct: int, n: int) -> None:
    """The interval holds exactly the p with |correct/n - p| <= z sqrt(p (1 - p) / n), z = 1.95996398."""
    low, high = wilson(correct, n)
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:
            assert abs(correct / n - bound) == pytest.approx(1.959963984540054 * math.sqrt(bound * (1 - bound) / n))
    assert 0 <= low <= correct / n <= high <= 1


def test_wilson_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    assert wilson(81, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson(15, 148) == (pytest.approx(0.0624, abs=5e-5), pytest.approx(0.1605, abs=5e-5))
    assert wilson(0, 20) == (pytest.approx(0.0, abs=5e-5), pytest.approx(0.1611, abs=5e-5))
    assert wilson(1, 29) == (pytest.approx(0.0061, abs=5e-5), pytest.approx(0.1718, abs=5e-5))
    with pytest.raises(InputError, match="3 of 2"):
        wilson(3, 2)


def test_the_worst_group_the_gap_and_small_groups() -> None:
    groups = np.repeat(["ann", "bob", "cid"], [40, 50, 5])
    truth = np.zeros(95, int)
    predicted = np.zeros(95, int)
    predicted[:10] = 1  # ann: 30 of 40
    predicted[40:45] = 1  # bob: 45 of 50
    predicted[90:] = 1  # cid: 0 of 5, too few to tell
    found = by_group(truth, predicted, groups)
    rows = {row["group"]: row for row in found["rows"]}
    assert [rows[g]["accuracy"] for g in ("ann", "bob", "cid")] == [0.75, 0.9, 0.0]
    assert [rows[g]["small"] for g in ("ann", "bob", "cid")] == [False, False, True]
    assert (found["worst"], found["best"]) == ("ann", "bob")
    assert found["gap"] == pytest.approx(0.15)
    only_small = by_group(truth[90:], predicted[90:], groups[90:])
    assert only_small["gap"] is None
    with pytest.raises(InputError, match="95 labels, 95 predictions, 3 groups"):
        by_group(truth, predicted, groups[:3])


def test_what_is_no_group_is_left_out_and_said() -> None:
    truth = np.zeros(100, int)
    attributes = {
        "speaker": np.arange(100) % 4,
        "purity": np.linspace(0, 1, 100),
        "recording": np.arange(100),
        "device": np.zeros(100, int),
        "steps": np.zeros((100, 3), int),
    }
    found, skipped = subgroups(truth, truth, attributes)
    assert list(found) == ["speaker"]
    assert set(skipped) == {"purity", "recording", "device", "steps"}
    assert "measurement" in skipped["purity"]
    assert "100 different values" in skipped["recording"]


def blobs(n: int, seed: int) -> np.ndarray:
    """Images (n, 1, 24, 24) in [0, 1] of a few random smooth bumps."""
    rng = np.random.default_rng(seed)
    grid = np.arange(24)
    x = np.zeros((n, 24, 24))
    for _ in range(5):
        cy, cx, s = rng.uniform(2, 22, n), rng.uniform(2, 22, n), rng.uniform(1.5, 5, n)
        dy, dx = (np.exp(-((grid[None] - c[:, None]) ** 2) / (2 * s[:, None] ** 2)) for c in (cy, cx))
        x += rng.uniform(0.2, 1, n)[:, None, None] * dy[:, :, None] * dx[:, None, :]
    return (x / x.max(axis=(1, 2), keepdims=True))[:, None].astype(np.float32)


def test_exact_duplicates_are_bytes_that_agree() -> None:
    train, test = blobs(20, 0), blobs(10, 1)
    test[3], test[7] = train[11], train[2]
    test[8] = np.nextafter(train[2], 2, dtype=np.float32)  # nearly is not exactly
    found = exact_duplicates(sample_hashes(train), sample_hashes(test))
    assert found == {"count": 2, "share": 0.2, "pairs": [(11, 3), (2, 7)]}


def test_planted_near_duplicates_are_found_and_others_are_not() -> None:
    train, test = blobs(150, 0), blobs(60, 1)
    rng = np.random.default_rng(5)
    test[:4] = train[30:34] + 0.001 * rng.standard_normal((4, 1, 24, 24)).astype(np.float32)
    labels = np.arange(150) % 5
    truth = np.concatenate([labels[30:34], np.arange(56) % 5])
    found = contamination(train, labels, test, truth, lambda x: x.reshape(len(x), -1), images=True)
    assert found["exact"]["count"] == 0
    assert found["embedding"]["count"] == 4
    assert sorted(found["embedding"]["pairs"]) == [(30, 0), (31, 1), (32, 2), (33, 3)]
    assert found["embedding"]["false_alarms"] == 0
    assert 0.99 < found["embedding"]["threshold"] < 1
    assert {(30, 0), (31, 1), (32, 2), (33, 3)} <= set(found["perceptual_hash"]["pairs"])
    assert "perceptual_hash" not in contamination(train, labels, test, truth, lambda x: x.reshape(len(x), -1), False)


def test_a_collapsed_encoder_gives_itself_away_by_false_alarms() -> None:
    rows, labels = np.ones((30, 3)), np.arange(30) % 3
    found = near_duplicates(rows, labels, rows[:9], labels[:9], rows[:9])
    assert found["count"] == 9
    assert found["false_alarms"] == 1.0


def test_the_threshold_catches_the_share_of_copies_it_says() -> None:
    x = np.random.default_rng(9).standard_normal((400, 1, 6, 6)).astype(np.float32)
    copies = slight_copies(x)
    np.testing.assert_allclose((copies - x).std() / x.std(), 0.02, rtol=0.05)
    flat, other = x.reshape(400, -1), copies.reshape(400, -1)
    found = near_duplicates(flat, np.zeros(400), other, np.zeros(400), flat)
    assert found["share"] == pytest.approx(0.95, abs=0.003)


def test_the_perceptual_hash_keeps_what_the_eye_keeps() -> None:
    x = blobs(40, 2)
    first = perceptual_hash(x)
    assert set(np.unique(first).tolist()) == {-1.0, 1.0}
    same = perceptual_hash(0.5 * x + 0.2)  # brightness and contrast
    assert (first != same).sum(1).max() <= 2  # rounding at the median
    large = perceptual_hash(np.repeat(np.repeat(x, 4, axis=2), 4, axis=3))
    assert (first != large).sum(1).mean() < 4
    others = (64 - first @ first.T) / 2
    assert others[~np.eye(40, dtype=bool)].mean() > 15
    with pytest.raises(InputError, match="expected images"):
        perceptual_hash(x[0])
