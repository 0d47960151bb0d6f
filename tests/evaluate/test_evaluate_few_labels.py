"""Few labels: draws, intervals and areas against scipy, closed forms and counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edgessl.errors import InputError
from edgessl.evaluate import few_shot, label_efficiency, label_fractions
from edgessl.evaluate.probes import Interval, draw_fraction, draw_per_class, log_area, nearest_mean_predict

LABELS = np.repeat([0, 1, 2], [40, 20, 10])


def clusters(n: int, seed: int, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3)
    return np.eye(3)[y] + spread * rng.standard_normal((n, 3)), y


def test_the_interval_is_students() -> None:
    values = [0.7, 0.75, 0.72, 0.81]
    found = Interval.of(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == (pytest.approx(0.745), pytest.approx(low), pytest.approx(high))
    one = Interval.of([0.5])
    assert (one.low, one.high) == (0.5, 0.5)


def test_draws_hold_the_asked_number_of_each_class_and_no_sample_twice() -> None:
    chosen = draw_per_class(LABELS, 7, np.random.default_rng(0))
    assert np.bincount(LABELS[chosen]).tolist() == [7, 7, 7]
    assert len(set(chosen.tolist())) == 21
    share = draw_fraction(LABELS, 0.1, np.random.default_rng(0))
    assert np.bincount(LABELS[share]).tolist() == [4, 2, 1]
    assert np.bincount(LABELS[draw_fraction(LABELS, 0.001, np.random.default_rng(0))]).tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="class 2 has only 10"):
        draw_per_class(LABELS, 11, np.random.default_rng(0))


def test_nearest_mean_is_the_largest_cosine_to_the_means() -> None:
    x, y = clusters(30, 0)
    queries, _ = clusters(50, 1, spread=2.0)
    rows = x / np.linalg.norm(x, axis=1)[:, None]
    means = np.stack([rows[y == c].mean(0) for c in range(3)])
    cosine = (queries @ means.T) / np.linalg.norm(means, axis=1)
    assert nearest_mean_predict(x, y, queries).tolist() == cosine.argmax(1).tolist()


def test_more_shots_are_better_and_draws_are_seeded() -> None:
    x, y = clusters(120, 2, spread=0.6)
    queries, truth = clusters(150, 3, spread=0.6)
    found = few_shot(x, y, queries, truth, shots=(1, 10), draws=6)
    assert found[10]["nearest_mean"].mean > found[1]["nearest_mean"].mean + 0.03
    assert found[10]["logistic"].mean > found[1]["logistic"].mean + 0.03
    assert len(found[1]["logistic"].values) == 6
    assert len(set(found[1]["logistic"].values)) > 1
    assert few_shot(x, y, queries, truth, shots=(1,), draws=6)[1] == found[1]
    assert few_shot(x, y, queries, truth, shots=(1,), draws=6, seed=1)[1] != found[1]


def test_label_fractions_say_how_many_labels_they_used() -> None:
    x, y = clusters(300, 4)
    found = label_fractions(x, y, *clusters(90, 5), fractions=(0.01, 0.5), draws=3)
    assert found[0.01][0] == 3
    assert found[0.5][0] == 150
    assert found[0.5][1].mean > 0.9


def test_the_area_over_log_labels() -> None:
    assert log_area([(10, 0.4), (20, 0.4), (160, 0.4)]) == pytest.approx(0.4)
    # linear in log n: the mean of the ends, wherever the curve was sampled
    ends = [(n, np.log(n) / np.log(64)) for n in (1, 3, 7, 64)]
    assert log_area(ends) == pytest.approx(0.5)
    assert log_area([(8, 0.3)]) == 0.3
    # one doubling at 0, one at 1 with a ramp between: 1/4 of two doublings' width more each side
    assert log_area([(1, 0.0), (2, 0.0), (4, 1.0), (8, 1.0)]) == pytest.approx((0.5 + 1) / 3)


def test_efficiency_doubles_the_labels_until_the_smallest_class_is_used_up() -> None:
    seen: list[int] = []

    def score(chosen: np.ndarray) -> float:
        seen.append(len(chosen))
        return len(chosen) / 100

    curve, area = label_efficiency(LABELS, score, draws=2)
    assert seen == [3, 3, 6, 6, 12, 12, 24, 24]
    assert curve == [(3, 0.03), (6, 0.06), (12, 0.12), (24, 0.24)]
    assert area == pytest.approx((0.03 / 2 + 0.06 + 0.12 + 0.24 / 2) / 3)
