from __future__ import annotations

import base64
import copy
import io
import math
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from edgessl.errors import InputError
from edgessl.report import demo_table
from edgessl.report.images import data_uris
from edgessl.report.plots import bars, curves, scatter
from edgessl.report.results import read_results


def test_results_are_read(required: dict[str, Any]) -> None:
    results = read_results(required)
    assert [table.key for table in results.tables] == ["knn", "drift", "federated"]
    assert results.table("knn")["int8"].seeds == (0.911, 0.919, 0.909)
    assert results.total_seconds == 166.9
    assert dict(results.seconds) == {"pretrain": 48.2, "export": 21.4, "adapt": 33.8, "federated": 61.0}


def test_the_total_is_the_sum_where_it_is_not_given(required: dict[str, Any]) -> None:
    del required["seconds"]["total"]
    assert read_results(required).total_seconds == pytest.approx(164.4)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["knn"], None, "knn is missing"),
        (["knn", "int8"], None, r"knn\.int8 is missing; found random, pretrained"),
        (["drift", "adapted_old", "std"], None, r"drift\.adapted_old\.std is missing"),
        (["seconds"], None, "seconds is missing"),
        (["knn", "random", "mean"], 61.2, r"knn\.random\.mean: expected a number in \[0, 1\], found 61\.2"),
        (["knn", "random", "mean"], math.nan, r"knn\.random\.mean"),
        (["knn", "random", "mean"], True, r"knn\.random\.mean"),
        (["knn", "random", "std"], "0.1", r"knn\.random\.std"),
        (["federated", "federated", "seeds"], [], r"federated\.federated\.seeds"),
        (["federated", "federated", "seeds"], "123", r"federated\.federated\.seeds"),
        (["federated", "federated", "seeds"], [0.5, -0.1], r"federated\.federated\.seeds\[1\]"),
        (["drift"], [1, 2], "drift: expected an object"),
        (["seconds", "export"], -1, r"seconds\.export"),
        (["seconds"], "long", "seconds"),
    ],
)
def test_a_wrong_figure_is_named(required: dict[str, Any], path: list[str], value: Any, message: str) -> None:
    data = copy.deepcopy(required)
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    if value is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    with pytest.raises(InputError, match=message):
        read_results(data)


def test_the_terminal_table(required: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(demo_table(required))
    text = console.export_text()
    for expected in (
        "61.0 ± 0.9 %",
        "82.3 ± 1.0 %",
        "83.8 ± 0.7 %",
        "Each on its own (mean)",
        "3 seeds",
        "167 s",
    ):
        assert expected in text


def test_bars_are_as_long_as_their_means(required: dict[str, Any]) -> None:
    table = read_results(required).table("drift")
    svg = bars(table)
    # the translucent bars; each path is a rectangle M x y L x y ...
    paths = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*"[^>]*opacity: 0\.28', svg)
    assert len(paths) == 4
    lengths = np.array([float(end) - float(start) for start, end in paths])
    means = np.array([row.accuracy.mean for row in table.rows])
    np.testing.assert_allclose(lengths / lengths[0], means / means[0], rtol=1e-3)


def test_curves_say_what_they_show() -> None:
    svg = curves("adapt", {"step": [0, 1, 2], "loss": [3.0, 2.0, 1.5], "embedding_std": [0.1, 0.2, 0.4]})
    assert "loss from 3 to 1.5; embedding std from 0.1 to 0.4" in svg
    assert svg.count(">step</text>") == 2


@pytest.mark.parametrize("series", [{"loss": [1.0]}, {"step": [0, 1], "loss": [1.0]}, {"step": [0]}])
def test_curves_of_other_lengths_are_refused(series: dict[str, list[float]]) -> None:
    with pytest.raises(InputError, match=r"curves\.adapt"):
        curves("adapt", series)


def test_scatter_draws_every_point_and_names_each_class() -> None:
    rng = np.random.default_rng(0)
    panel = {"points": rng.standard_normal((30, 2)).tolist(), "labels": ["cat", "dog", "owl"] * 10}
    svg = scatter({"before": panel, "after": panel}, {"before": "Before", "after": "After"})
    assert svg.count("<use ") == 60
    assert all(svg.count(f">{label}</text>") == 2 for label in ("cat", "dog", "owl"))


def test_scatter_refuses_points_without_labels() -> None:
    with pytest.raises(InputError, match=r"embedding\.after"):
        scatter({"before": {"points": [[0, 1]], "labels": [0]}}, {"before": "Before", "after": "After"})


def test_images_keep_their_pixels() -> None:
    image = np.linspace(0, 1, 35).reshape(5, 7)
    (uri,) = data_uris([image], "before")
    decoded = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert decoded.mode == "L"
    np.testing.assert_allclose(np.asarray(decoded) / 255, image, atol=0.501 / 255)


@pytest.mark.parametrize("image", [np.zeros((1, 4, 4)), np.zeros((0, 4)), np.full((4, 4), np.nan)])
def test_what_is_no_picture_is_refused(image: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"samples\.before\[1\]"):
        data_uris([np.zeros((4, 4)), image], "before")
