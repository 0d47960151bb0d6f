"""Collapse diagnostics: golden values and cases that can be worked out."""

from __future__ import annotations

import numpy as np
import pytest

from edgessl.errors import InputError
from edgessl.evaluate.collapse import alignment, diagnose, dimension_std, rankme, spectrum, uniformity

N = np.arange(1, 31, dtype=np.float64).reshape(6, 5)
A, B = np.sin(N), np.sin(N) + 0.3 * np.cos(2 * N)


def test_golden_values() -> None:
    assert alignment(A, B) == pytest.approx(0.0797199122, abs=1e-9)
    assert uniformity(A, t=2) == pytest.approx(-2.2606027766, abs=1e-9)
    assert rankme(A) == pytest.approx(1.9617423164, abs=1e-9)
    # lightly's std_of_l2_normalized, 0.4813138145, is torch's mean unbiased std, without sqrt(D)
    biased = float(dimension_std(A).mean())
    assert biased == pytest.approx(0.4813138145 * np.sqrt(5) * np.sqrt(5 / 6), abs=1e-9)


def test_one_point_is_collapsed_by_every_measure() -> None:
    point = np.tile([1.0, 2.0, 3.0], (8, 1))
    assert rankme(point) == pytest.approx(1.0, abs=1e-4)
    assert uniformity(point) == pytest.approx(0.0, abs=1e-12)
    assert alignment(point, point) == 0.0
    assert dimension_std(point).tolist() == pytest.approx([0, 0, 0])
    assert spectrum(point).tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_opposite_points_and_orthogonal_directions() -> None:
    poles = np.array([[1.0, 0], [-1, 0]])
    assert uniformity(poles) == pytest.approx(-8.0)  # ||x - y||^2 = 4, t = 2
    assert alignment(poles, -poles) == pytest.approx(4.0)
    assert alignment(poles, -poles, alpha=1) == pytest.approx(2.0)
    assert rankme(5 * np.eye(4)) == pytest.approx(4.0, abs=1e-3)
    axes = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert dimension_std(axes).tolist() == pytest.approx([1, 1])  # isotropic on the circle


def test_the_spectrum_is_that_of_the_covariance() -> None:
    x = np.random.default_rng(0).standard_normal((200, 5)) * [9, 3, 1, 0.5, 0] + 7
    found = spectrum(x)
    expected = np.sqrt(np.linalg.eigvalsh(np.cov(x.T))[::-1].clip(0))
    np.testing.assert_allclose(found, expected / expected[0], atol=1e-6)


def test_diagnose_reports_dead_dimensions_and_leaves_out_an_alignment_it_cannot_know() -> None:
    x = np.random.default_rng(1).standard_normal((5000, 6)) * [1, 1, 1, 1, 1, 0]
    found = diagnose(x)
    assert (found["samples"], found["dimensions"], found["dead_dimensions"]) == (4096, 6, 1)
    assert found["alignment"] is None
    assert diagnose(A, (A, B))["alignment"] == pytest.approx(0.0797199122)
    with pytest.raises(InputError, match="2 embeddings"):
        uniformity(A[:1])
    with pytest.raises(InputError, match="one shape"):
        alignment(A, B[:2])
