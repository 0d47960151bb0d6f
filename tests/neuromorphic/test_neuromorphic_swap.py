"""Dense or spiking: the same stream experiment and the same federation take either learner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgessl.continual.judge import Judge, Labelled
from edgessl.continual.life import live
from edgessl.continual.streams import Budget, Stream, by_class
from edgessl.data import array_source
from neuromorphic.device import SpikingLearner
from neuromorphic.local import predictive_coding
from neuromorphic.network import IntegerNetwork
from neuromorphic.plastic import balance

Array = np.ndarray[Any, np.dtype[Any]]
STEPS, N = 10, 12


def spikes(count: int, seed: int = 0) -> tuple[Array, Array]:
    """(count, STEPS, N) float32 of 0 and 1 with four classes, three busy channels each; and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    rates = np.full((count, N), 0.05)
    for row, label in zip(rates, labels, strict=True):
        row[3 * label : 3 * label + 3] = 0.5
    return (rng.random((count, STEPS, N)) < rates[:, None]).astype(np.float32), labels


def network(seed: int = 0) -> IntegerNetwork:
    first = predictive_coding(N, 10, feedback="kolen_pollack", shift=6, event=2, seed=seed)
    return balance(first, spikes(16, 9)[0].astype(np.int8), 0.15, engine="numpy")


def opened(where: Path) -> SpikingLearner:
    return SpikingLearner.open(network(), where, steps=STEPS, engine="numpy")


def test_a_stream_experiment_takes_the_spiking_learner_for_a_dense_one(tmp_path: Path) -> None:
    x, labels = spikes(96)
    asked, truth = spikes(32, 1)
    order = by_class(labels, 2)
    judge = Judge(Labelled(x, labels, labels // 2), Labelled(asked, truth, truth // 2))
    with opened(tmp_path) as learner:
        factory = learner.theta
        stream = Stream(array_source(x, kind="signal", layout="channels_first"), order, chunk=16)
        life = live(learner, stream, Budget(chunk=16, steps=8), judge)  # type: ignore[arg-type]
        assert (learner.theta != factory).any()
        assert life.positions == [0, 48, 96]
        assert life.counts["steps"] == 48
        assert life.counts["remembered"] == 48  # half the samples could not be learned from yet
        assert len(life.metrics["rate"]) == 6
    matrix = life.matrix("linear")
    assert matrix.shape == (3, 2)
    assert matrix[-1].mean() > 0.7  # of four classes
    assert life.summary("linear").final_accuracy == pytest.approx(matrix[-1].mean())


def test_spiking_learners_federate_in_process(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="pip install 'edgessl[federated]'")
    from federated import Learners, RoundSettings, catch_up, make_client_app, make_server_app, run_local

    start: list[Array] = []
    replies: list[Array] = []
    x, labels = spikes(80)
    parts = [x[labels < 2], x[labels >= 2]]

    def open_learner(context: Any) -> Any:
        i = int(context.node_config["partition-id"])
        learner = opened(tmp_path / f"client-{i}")
        assert catch_up(learner, parts[i]) == 40  # type: ignore[arg-type]
        return learner

    records: list[dict[str, Any]] = []
    thetas: list[Array] = []

    def remember(record: dict[str, Any], theta: Array) -> None:
        records.append(record)
        thetas.append(theta.copy())
        replies.append(np.mean([learner.theta for learner in learners._open.values()], axis=0))

    with opened(tmp_path / "factory") as factory:
        start.append(factory.theta)
        digest = factory.bundle.digest
    server = make_server_app(start[0], digest, RoundSettings(rounds=2), on_round=remember)
    with Learners(open_learner) as learners:
        run_local(server, make_client_app(learners, local_steps=6), 2)
        assert all(learner.metrics()["steps"] == 12 for learner in learners._open.values())
        assert all(learner.metrics()["generation"] == 2 for learner in learners._open.values())
    assert [record["clients"] for record in records] == [2, 2]
    for theta, mean in zip(thetas, replies, strict=True):  # equally many samples: the plain mean of integers
        np.testing.assert_allclose(theta, mean, atol=1e-4)
    assert (thetas[1] != thetas[0]).any()
    assert (thetas[0] != start[0]).any()
    with opened(tmp_path / "late") as late:  # a device that joins afterwards
        late.adopt(thetas[-1])
        np.testing.assert_array_equal(late.theta, np.rint(thetas[-1]))
