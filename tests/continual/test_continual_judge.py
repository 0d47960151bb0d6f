"""The judge and a device's life, against brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from edgessl.continual.judge import KINDS, Judge, Labelled, ridge_predict
from edgessl.continual.life import standstill
from edgessl.continual.streams import Stream, by_group
from edgessl.data import array_source
from edgessl.errors import InputError


def test_ridge_is_scikit_learns() -> None:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    bank, labels = rng.normal(size=(90, 7)).astype(np.float32), rng.integers(0, 4, 90)
    queries = rng.normal(size=(200, 7)).astype(np.float32)
    scaler = StandardScaler().fit(bank)
    wanted = RidgeClassifier(alpha=1.0).fit(scaler.transform(bank), labels).predict(scaler.transform(queries))
    assert (ridge_predict(bank, labels, queries) == wanted).mean() >= 0.995


def test_ridge_survives_a_constant_column_and_a_single_class() -> None:
    bank = np.array([[0.0, 5.0], [1.0, 5.0], [4.0, 5.0], [5.0, 5.0]], np.float32)
    queries = np.array([[0.5, 5.0], [4.5, 5.0]], np.float32)
    assert ridge_predict(bank, np.array([3, 3, 8, 8]), queries).tolist() == [3, 8]
    assert ridge_predict(bank, np.array([3, 3, 3, 3]), queries).tolist() == [3, 3]


@pytest.fixture
def judge() -> tuple[Judge, Labelled]:
    """Two contexts on a line. In the second, class 0 lies where class 1 of the first is: pooling them confuses."""
    rng = np.random.default_rng(1)
    centres = {(0, 0): 0.0, (0, 1): 10.0, (1, 0): 10.0, (1, 1): 20.0}
    rows = [(centres[c, y] + 0.1 * rng.normal(), y, c) for c, y in centres for _ in range(30)]
    x, y, c = (np.array(column) for column in zip(*rows, strict=True))
    part = Labelled(x[:, None].astype(np.float32), y, c)
    return Judge(part, part), part


def test_task_aware_judging_knows_what_pooling_confuses(judge: tuple[Judge, Labelled]) -> None:
    found = judge[0].verdict(lambda x: np.hstack([x, np.ones_like(x)]))
    assert set(found) == set(KINDS)
    assert found["linear_aware"].tolist() == [1.0, 1.0]
    # where the classes overlap a line must give up one of them; the ends stay right
    assert found["linear"].sum() <= 1.6
    assert (found["linear"] >= 0.5).all()


def test_a_context_without_samples_is_refused(judge: tuple[Judge, Labelled]) -> None:
    part = judge[1]
    first = part.contexts == 0
    only = Labelled(part.samples[first], part.labels[first], part.contexts[first])
    with pytest.raises(InputError, match="context 1 has no bank samples"):
        Judge(only, part)


def test_who_never_learns_is_judged_once(judge: tuple[Judge, Labelled]) -> None:
    calls = []

    def embed(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return x

    source = array_source(np.zeros((6, 1, 1), np.float32), kind="signal", layout="channels_first")
    stream = Stream(source, by_group(np.array([0, 0, 0, 0, 1, 1])), 4)
    life = standstill(embed, stream, judge[0])
    assert len(calls) == 2  # the bank and the test samples
    assert life.positions == [0, 4, 6]
    assert life.matrix("linear").shape == (3, 2)
    assert life.summary("linear").forgetting == 0
