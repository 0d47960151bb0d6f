"""Figures of the accuracy matrix, against avalanche's own test values and arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgessl.continual.metrics import (
    forgetting,
    matrix_csv,
    mean_and_std,
    read_matrix_csv,
    recovered,
    summarize,
)
from edgessl.errors import InputError

# avalanche 0.6, tests/evaluation/test_functional.py: accuracies and their forgetting
AVALANCHE = np.array([[1.0, 0.0, 0.0], [0.5, 0.8, 1.0], [0.2, 1.0, 0.5]])
AVALANCHE_FORGETTING = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.8, -0.2, 0.0]])

# by hand: before, after A, after B, after C
HAND = np.array([[0.2, 0.3, 0.1], [0.9, 0.4, 0.2], [0.5, 0.8, 0.3], [0.6, 0.7, 0.6]])
MATRICES = st.integers(1, 5).flatmap(lambda t: arrays(np.float64, (t + 1, t), elements=st.floats(0, 1)))


def test_forgetting_is_avalanches() -> None:
    before = np.zeros((1, 3))
    np.testing.assert_allclose(forgetting(np.vstack([before, AVALANCHE])), AVALANCHE_FORGETTING)


def test_avalanches_single_context_values() -> None:
    # tests/evaluation/test_metrics.py: an accuracy that falls from 1 to 0.4 is forgetting 0.6; one that the contexts
    # before took from 1 to 0.4 is a forward transfer of -0.6
    lost = summarize(np.array([[0.0, 0.0], [1.0, 0.0], [0.4, 0.0]]), [0, 1, 2])
    assert lost.forgetting == pytest.approx(0.6)
    assert lost.backward_transfer == pytest.approx(-0.6)
    ahead = summarize(np.array([[0.0, 1.0], [0.0, 0.4], [0.0, 0.4]]), [0, 1, 2])
    assert ahead.forward_transfer == pytest.approx(-0.6)


def test_every_figure_by_hand() -> None:
    found = summarize(HAND, [0, 100, 200, 400])
    assert found.final_accuracy == pytest.approx((0.6 + 0.7 + 0.6) / 3)
    assert found.average_accuracy == pytest.approx((0.9 + (0.5 + 0.8) / 2 + (0.6 + 0.7 + 0.6) / 3) / 3)
    assert found.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.7)) / 2)
    assert found.backward_transfer == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert found.forward_transfer == pytest.approx(((0.4 - 0.3) + (0.3 - 0.1)) / 2)
    assert found.plasticity == pytest.approx(((0.9 - 0.2) + (0.8 - 0.4) + (0.6 - 0.3)) / 3)
    assert found.learned_accuracy == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    means = [0.6 / 3, 1.5 / 3, 1.6 / 3, 1.9 / 3]
    area = 100 * (means[0] + means[1]) / 2 + 100 * (means[1] + means[2]) / 2 + 200 * (means[2] + means[3]) / 2
    assert found.online_area == pytest.approx(area / 400)


def test_task_aware_and_pooled_may_differ_in_sign() -> None:
    aware = summarize(np.array([[0.5, 0.5], [0.9, 0.5], [0.95, 0.9]]), [0, 1, 2])
    pooled = summarize(np.array([[0.5, 0.2], [0.9, 0.2], [0.6, 0.9]]), [0, 1, 2])
    assert aware.backward_transfer > 0 > pooled.backward_transfer


def test_one_context_forgets_nothing() -> None:
    found = summarize(np.array([[0.3], [0.8]]), [0, 10])
    assert (found.forgetting, found.backward_transfer, found.forward_transfer) == (0, 0, 0)
    assert found.plasticity == pytest.approx(0.5)


@given(MATRICES)
def test_what_holds_for_every_matrix(matrix) -> None:
    contexts = matrix.shape[1]
    found = summarize(matrix, list(range(contexts + 1)))
    assert found.forgetting >= -found.backward_transfer - 1e-12  # the best is at least that just after the context
    assert 0 <= found.online_area <= 1
    if contexts > 1:
        still = np.tile(matrix[:1], (contexts + 1, 1))
        idle = summarize(still, list(range(contexts + 1)))
        assert (idle.forgetting, idle.plasticity, idle.forward_transfer) == (0, 0, 0)
        assert idle.online_area == pytest.approx(idle.final_accuracy)


@given(MATRICES)
def test_csv_holds_the_matrix(matrix) -> None:
    names = [f'context "{i}", late' for i in range(matrix.shape[1])]
    again, header = read_matrix_csv(matrix_csv(matrix, names))
    assert header == names
    np.testing.assert_allclose(again, matrix, atol=5e-7)


def test_csv_bytes() -> None:
    text = matrix_csv(np.array([[0.25, 0.5], [1.0, 0.5], [0.75, 0.125]]), ["a", "b"])
    assert text == "after,a,b\nstart,0.250000,0.500000\na,1.000000,0.500000\nb,0.750000,0.125000\n"


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected shape \(T \+ 1, T\)"):
        summarize(np.zeros((2, 2)), [0, 1])
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        summarize(np.array([[0.5], [np.nan]]), [0, 1])
    with pytest.raises(InputError, match="grow from 0"):
        summarize(np.zeros((2, 1)), [0, 0])
    with pytest.raises(InputError, match="1 names for 2"):
        matrix_csv(np.zeros((3, 2)), ["a"])
    with pytest.raises(InputError, match="not an accuracy matrix"):
        read_matrix_csv("after,a\nend,0.5\n")


def test_share_of_the_gap() -> None:
    assert recovered(0.5, 0.7, 0.64) == pytest.approx(0.7)
    assert recovered(0.5, 0.7, 0.4) == pytest.approx(-0.5)
    assert np.isnan(recovered(0.7, 0.6, 0.8))  # nothing was lost: there is no gap to close


def test_mean_and_sample_deviation() -> None:
    assert mean_and_std([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "seeds": [1.0, 2.0, 3.0]}
    assert mean_and_std([0.5])["std"] == 0.0
