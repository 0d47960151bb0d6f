from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgessl.bench import load_bench
from edgessl.bench.continual.streams import Problem
from edgessl.bench.spiking import continual as spiking_continual
from edgessl.continual.judge import KINDS, Labelled
from edgessl.continual.metrics import summarize
from edgessl.continual.streams import Budget, by_group
from edgessl.data import array_source
from edgessl.errors import ConfigError, DataError


def tiny(name: str, seed: int) -> Problem:
    """Two contexts of two classes each: bright corners of 4 x 4 images, one corner per class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), 32)
    images = rng.random((len(labels), 1, 4, 4)).astype(np.float32) * 0.2
    for row, label in zip(images, labels, strict=True):
        row[0, 2 * (label // 2) : 2 * (label // 2) + 2, 2 * (label % 2) : 2 * (label % 2) + 2] += 0.7
    contexts = labels // 2
    asked = np.arange(0, len(labels), 8)
    shuffled = rng.permutation(len(labels))  # the judge's bank has an order, and more samples, of its own
    return Problem(
        factory=array_source(images[:40], kind="image", layout="channels_first", units="intensity 0..1"),
        stream=array_source(images, kind="image", layout="channels_first", units="intensity 0..1"),
        order=by_group(contexts, seed=seed),
        bank=Labelled(images[shuffled], labels[shuffled], contexts[shuffled]),
        test=Labelled(images[asked], labels[asked], contexts[asked]),
        budget=Budget(),
    )


def test_a_stream_gives_matrices_and_their_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spiking_continual, "problem", tiny)
    out = tmp_path / "continual.json"
    said: list[str] = []
    chosen = {"streams": ["nmnist"], "systems": ["frozen", "delta"], "out": str(out)}
    found = load_bench("spiking_continual")(**chosen, seeds=1, progress=said.append)
    assert len(said) == 2
    for row in found["rows"]:
        for judged in (*KINDS, "prototypes"):
            matrix = np.array(row[judged]["matrix"])
            assert matrix.shape == (3, 2)
            figures = summarize(matrix, [0, 64, 128]).to_json()
            assert row[judged]["final_accuracy"] == figures["final_accuracy"]
            assert row[judged]["forgetting"] == figures["forgetting"]
        assert (np.array(row["knn_aware"]["matrix"]) >= np.array(row["knn"]["matrix"])).all()  # two classes, then four
    frozen = np.array(found["rows"][0]["knn"]["matrix"])
    assert (frozen == frozen[0]).all()  # what does not learn does not change
    own = np.array(found["rows"][0]["prototypes"]["matrix"])
    assert own[0].tolist() == [0, 0]
    assert own[1, 1] == 0  # no label of the second context was heard before it came
    assert own[-1].min() > 0.5
    said.clear()
    again = spiking_continual.run(**chosen, seeds=1, progress=said.append)
    assert not said
    assert again["rows"] == json.loads(out.read_text())["rows"] == found["rows"]
    assert {s["judged"] for s in again["summary"]} == {*KINDS, "prototypes"}


def test_labels_of_the_stream_are_those_of_its_samples() -> None:
    given = tiny("nmnist", 3)
    images = given.stream.take(given.order.indices)
    corners = [image[0, y : y + 2, x : x + 2].sum() for image in images for y in (0, 2) for x in (0, 2)]
    brightest = np.array(corners).reshape(-1, 4).argmax(1)
    np.testing.assert_array_equal(spiking_continual.stream_labels(given), brightest)
    other = Labelled(given.bank.samples[1:], given.bank.labels[1:], given.bank.contexts[1:])
    with pytest.raises(DataError, match="not in the judge's bank"):
        spiking_continual.stream_labels(replace(given, bank=other))


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown stream 'mnist'; expected split_fashion, nmnist"):
        spiking_continual.run(streams=["mnist"])
