"""The online probe sees labels; the encoder does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgessl.checkpoint import Checkpoint
from edgessl.data import Source, Subset, open_digits
from edgessl.errors import InputError
from edgessl.pretrain import COLUMNS, Progress, pretrain
from edgessl.probing import BatchProbe
from edgessl.recipe import Recipe


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe("simclr", "adamw", batch_size=32, epochs=4)


def test_the_encoder_is_the_same_bit_for_bit(recipe: Recipe, digits: Source) -> None:
    without = pretrain(recipe, digits)
    probed = pretrain(recipe, digits, labels=digits.labels)
    for name, value in without.state.items():
        assert torch.equal(probed.state[name], value), name
    np.testing.assert_array_equal(probed.history[:, : len(COLUMNS)], without.history)
    assert without.columns == COLUMNS
    assert probed.columns == (*COLUMNS, "probe_accuracy")
    assert without.probe == {}


def test_accuracy_rises_and_is_shown_live(make_recipe: Callable[..., Recipe]) -> None:
    source = Subset(open_digits("train", size=8), np.arange(600))
    seen: list[Progress] = []
    found = pretrain(
        make_recipe("simclr", "adamw", batch_size=50, epochs=5), source, labels=source.labels, on_progress=seen.append
    )
    shown = [progress.metrics["probe_accuracy"] for progress in seen]
    assert shown == [row["probe_accuracy"] for row in found.rows()]
    assert all(0 <= share <= 1 for share in shown)
    assert shown[-1] > shown[0] + 0.1
    assert shown[-1] > 0.3  # of ten classes


def test_labels_that_mean_nothing_are_not_learned(make_recipe: Callable[..., Recipe]) -> None:
    # tested on each batch before it learns from it: what it has merely seen, it cannot score with
    source = Subset(open_digits("train", size=8), np.arange(600))
    labels = np.random.default_rng(0).integers(0, 10, 600)
    found = pretrain(make_recipe("simclr", "adamw", batch_size=50, epochs=1), source, labels=labels)
    assert found.rows()[0]["probe_accuracy"] < 0.2


def test_a_resumed_probe_is_the_uninterrupted_one(recipe: Recipe, digits: Source, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    whole = pretrain(recipe, digits, labels=digits.labels)
    pretrain(recipe, digits, labels=digits.labels, checkpoint=path, stop_after=10)
    resumed = pretrain(recipe, digits, labels=digits.labels, checkpoint=path)
    assert set(whole.probe) == set(resumed.probe)
    for name, value in whole.probe.items():
        assert torch.equal(resumed.probe[name], value), name
    np.testing.assert_array_equal(resumed.history, whole.history)
    assert set(Checkpoint.load(path).probe) == set(whole.probe)


def test_a_run_resumed_without_labels_keeps_what_is_known(recipe: Recipe, digits: Source, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    pretrain(recipe, digits, labels=digits.labels, checkpoint=path, stop_after=10)
    rows = pretrain(recipe, digits, checkpoint=path).rows()
    assert [math.isnan(row["probe_accuracy"]) for row in rows] == [False, True]


def test_unknown_labels_count_for_nothing() -> None:
    probe = BatchProbe(np.array([0, -1, 1, -1]), 4, {})
    probe.learn(torch.eye(4), np.array([1, 3]))
    assert math.isnan(probe.accuracy())
    probe.learn(torch.eye(4), np.arange(4))
    assert probe.accuracy() == 0.5  # zero weights name class 0: right for one of two known labels


@pytest.mark.parametrize(
    "labels", [np.zeros(95, np.int64), np.zeros((96, 1), np.int64), np.zeros(96), np.full(96, -1), np.full(96, -2)]
)
def test_labels_that_do_not_fit_are_refused(recipe: Recipe, digits: Source, labels: np.ndarray) -> None:
    with pytest.raises(InputError, match="probe"):
        pretrain(recipe, digits, labels=labels)
