"""Live diagnostics: closed forms, what is left out, and when they warn."""

from __future__ import annotations

import math
import re

import pytest
import torch

from edgessl.diagnostics import ROWS, WATCHED, collapse_warning, watch


def test_orthogonal_embeddings() -> None:
    # four samples on four axes: any two are sqrt(2) apart, all singular values are the same
    a = torch.eye(4)
    found = watch(torch.cat([3.0 * a, a]), 4)
    assert found == pytest.approx({"alignment": 0.0, "uniformity": -4.0, "rankme": 4.0}, abs=1e-5)
    # view b is the next sample's view a: every pair is sqrt(2) apart
    assert watch(torch.cat([a, a.roll(1, 0)]), 4)["alignment"] == pytest.approx(2.0)
    assert watch(torch.cat([a, -a]), 4)["alignment"] == pytest.approx(4.0)


def test_a_third_view_is_not_looked_at() -> None:
    a = torch.eye(4)
    assert watch(torch.cat([a, a, -a]), 4) == watch(torch.cat([a, a]), 4)


def test_one_view_has_no_alignment() -> None:
    found = watch(torch.eye(4), 4)
    assert math.isnan(found["alignment"])
    assert found["rankme"] == pytest.approx(4.0, abs=1e-5)


def test_a_point() -> None:
    found = watch(torch.ones(8, 3), 4)
    assert found == pytest.approx({"alignment": 0.0, "uniformity": 0.0, "rankme": 1.0}, abs=1e-4)


def test_large_batches_are_looked_at_in_part() -> None:
    rows = torch.cat([torch.eye(ROWS), torch.ones(100, ROWS)])
    assert watch(rows, ROWS + 100)["rankme"] == pytest.approx(ROWS, rel=1e-3)


def test_embeddings_that_are_not_finite_have_no_figures() -> None:
    found = watch(torch.tensor([[1.0, math.nan], [0.0, 1.0]]), 2)
    assert tuple(found) == WATCHED
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, None),
        ({"alignment": math.nan}, None),  # an objective with one view
        ({"loss": math.nan}, "not finite"),
        ({"grad_norm": math.inf}, "not finite"),
        ({"effective_rank": math.nan, "rankme": math.nan, "uniformity": math.nan}, "not finite"),
        ({"embedding_std": 0.01}, r"to a point \(std 0\.010 of 1, uniformity -2\.000 of -4\)"),
        ({"uniformity": -0.003}, r"to a point \(std 0\.800 of 1, uniformity -0\.003 of -4\)"),
        ({"effective_rank": 1.2}, r"to a line \(effective rank 1\.20, RankMe 12\.00\)"),
        ({"rankme": 1.1}, r"to a line \(effective rank 9\.00, RankMe 1\.10\)"),
        ({"embedding_std": 0.01, "effective_rank": 1.2}, "to a point"),
    ],
)
def test_collapse_warning(changed: dict[str, float], says: str | None) -> None:
    figures = {"loss": 1.0, "grad_norm": 1.0, "embedding_std": 0.8, "effective_rank": 9.0}
    warning = collapse_warning({**figures, "alignment": 0.3, "uniformity": -2.0, "rankme": 12.0, **changed})
    if says is None:
        assert warning is None
    else:
        assert warning is not None
        assert re.search(says, warning)
