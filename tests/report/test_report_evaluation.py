"""The evaluation's page: whole, self-contained, and every figure and skipped measure in it."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from edgessl.errors import InputError
from edgessl.report.evaluation import evaluation_report

FIGURES = {
    "knn": 0.9123, "linear": 0.5, "5-shot mean": 0.25, "10% labels": 0.75, "mAP": 0.4, "R@5": 0.625,
    "corrupted": 0.3, "OOD knn": 0.8, "PGD": 0.1, "area over log labels": 0.35,
}  # fmt: skip


def row(name: str, role: str) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "figures": {probe: [value] for probe, value in FIGURES.items()},
        "details": {
            "collapse": {
                "rankme": 12.345, "std_mean": 0.5, "std_min": 0.0, "dead_dimensions": 3, "uniformity": -1.5,
                "alignment": None, "spectrum": [1.0, 0.5, 0.0],
            },
            "label_efficiency": {"labels": [10, 20, 40], "accuracy": [0.1, 0.2, 0.5]},
            "corruptions": {"clean": 0.9, "by_severity": [0.8, 0.7, 0.6, 0.5, 0.4]},
            "adversarial": {"radii": [0.0, 0.1], "pgd": [0.9, 0.1]},
        },
    }  # fmt: skip


@pytest.fixture
def data() -> dict[str, Any]:
    ours = row("simclr <b>", "ours")
    groups = [
        {"group": "ann", "n": 40, "accuracy": 0.75, "low": 0.6, "high": 0.86, "small": False},
        {"group": "bob", "n": 50, "accuracy": 0.9, "low": 0.79, "high": 0.96, "small": False},
        {"group": "cid", "n": 5, "accuracy": 0.0, "low": 0.0, "high": 0.43, "small": True},
    ]
    ours["details"]["subgroups"] = {"speaker": {"rows": groups, "worst": "ann", "best": "bob", "gap": 0.15}}
    baseline = row("random weights", "baseline")
    del baseline["figures"]["PGD"], baseline["details"]["adversarial"]
    return {
        "subject": {"path": "runs/x/checkpoint.safetensors", "kind": "checkpoint", "objective": "simclr"},
        "protocol": {
            "data": "digits", "train_size": 1200, "test_size": 597, "split": "the data's own", "epochs": 30.0,
            "weights": "last epoch", "seeds": [0], "digest": "f" * 64, "probes": {name: {"k": 20} for name in FIGURES},
        },
        "results": [ours, baseline],
        "skipped": {"fine_tune": "a bundle has no encoder in torch"},
        "contamination": {
            "exact": {"count": 2, "share": 0.1, "pairs": [[11, 3]]},
            "embedding": {"count": 4, "share": 0.2, "pairs": [[7, 8]], "threshold": 0.9987, "false_alarms": 0.015},
        },
        "energy": {"joules": 7200.0, "co2_g": 0.962, "grade": "estimated", "grid_g_per_kwh": 481.0},
        "machine": {"cpu": "some"},
        "versions": {"python": "3"},
        "seconds": 12.5,
    }  # fmt: skip


def test_the_page_holds_every_figure_and_needs_nothing_else(data: dict[str, Any], tmp_path: Path) -> None:
    evaluation_report(data, tmp_path / "out" / "page.html")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["page.html", "page.json"]
    text = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    for value in FIGURES.values():
        assert f">{100 * value:.1f}<" in text
    for said in ("f" * 64, "a bundle has no encoder in torch", "ann is 15.0 points below bob", "cid (5)", "0.9987",
                 "last epoch", "12.35", "(11, 3)", "Wh", "estimated"):  # fmt: skip
        assert said in text, said
    assert "simclr &lt;b&gt;" in text
    assert "<b>" not in text
    assert "<script" not in text
    assert all(address.startswith("#") for address in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert text.count("<svg") == 5  # efficiency, corruptions, attacks, spectra, groups
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert json.loads((tmp_path / "out" / "page.json").read_text()) == data


def test_a_quick_evaluation_has_a_shorter_page(data: dict[str, Any], tmp_path: Path) -> None:
    quick = deepcopy(data)
    del quick["contamination"]
    quick["energy"], quick["skipped"] = None, {}
    for found in quick["results"]:
        found["details"] = {"collapse": found["details"]["collapse"]}
        found["figures"] = {probe: found["figures"][probe] for probe in ("knn", "linear")}
    evaluation_report(quick, tmp_path / "quick.html")
    text = (tmp_path / "quick.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 1
    for absent in ("Contamination", "Whom it fails", "Few labels", "Energy", "Skipped"):
        assert absent not in text


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'protocol' is missing"):
        evaluation_report({"knn": 1}, tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []
