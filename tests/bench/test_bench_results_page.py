"""The page of results: seeds pooled, the best first, collapsed rows marked, protocols never mixed."""

from __future__ import annotations

from typing import Any

import pytest

from edgessl.bench.objectives.page import page, section
from edgessl.errors import InputError
from edgessl.evaluate import Protocol, Result


def row(name: str, seed: int, knn: float, epochs: int = 5, **details: Any) -> dict[str, Any]:
    protocol = Protocol(
        data="digits",
        train_hash="a" * 64,
        test_hash="b" * 64,
        split="the data's own",
        train_size=1200,
        test_size=360,
        labels=1200,
        probes={"knn": {"k": 20}},
        epochs=epochs,
        seeds=(seed,),
    )
    known = {"rankme": 10.0 + seed, "dim": 128, "seconds": 3.0, **details}
    return Result(name, protocol, {"knn": (knn,)}, "ours", known).to_json()


def result(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    settings = {"encoder": "ds_cnn_s", "epochs": 5, "batch_size": 128, "lr": 2e-3}
    return {
        "title": "Digits",
        "machine": {"cpu": "a CPU", "cores": 2},
        "settings": settings,
        "rows": rows,
        "failures": [],
        **more,
    }


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_seeds_are_pooled_and_the_best_comes_first() -> None:
    rows = [row("vicreg", 0, 0.5), row("simclr", 0, 0.7), row("simclr", 1, 0.8), row("vicreg", 1, 0.7)]
    text = section(result(*rows, row("random", 0, 0.9), row("random", 1, 0.9)))
    head, _, *body = table(text)
    assert head == ["", "family", "knn", "RankMe", "seconds"]
    # sample standard deviations by hand: 0.1 / sqrt 2 and 0.2 / sqrt 2; references stand on top whatever they reach
    assert body == [
        ["random", "reference", "90.0 ± 0.0", "10 of 128", "3"],
        ["simclr", "contrastive", "75.0 ± 7.1", "10 of 128", "3"],
        ["vicreg", "redundancy", "60.0 ± 14.1", "10 of 128", "3"],
    ]


def test_a_collapse_in_any_seed_is_marked() -> None:
    rows = [row("byol", 0, 0.5, warning=None), row("byol", 1, 0.1, warning="collapsing to a point")]
    assert table(section(result(*rows)))[2][0] == "byol †"
    assert table(section(result(rows[0])))[2][0] == "byol"


def test_what_only_some_rows_have_is_a_dash_elsewhere() -> None:
    across = {"R@1": 0.25, "R@5": 0.5}
    text = section(result(row("clip", 0, 0.5, recall_across=across, bits=2.125), row("random", 0, 0.4)))
    head, _, reference, clip = table(text)
    assert head[3:5] == ["bits per character, probe", "first side finds second"]
    assert clip[3:5] == ["2.12", "R@1 25.0, R@5 50.0"]
    assert reference[3:5] == ["–", "–"]


def test_failures_are_published() -> None:
    failed = {"objective": "swav", "seed": 2, "error": "not finite"}
    assert "Failed: swav, seed 2: not finite" in page([result(row("simclr", 0, 0.5), failures=[failed])])


def test_rows_of_two_protocols_are_refused() -> None:
    with pytest.raises(InputError, match="epochs: 5, 6"):
        section(result(row("simclr", 0, 0.5), row("vicreg", 0, 0.5, epochs=6)))
