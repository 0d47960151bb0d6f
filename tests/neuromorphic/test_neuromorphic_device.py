"""The spiking device: the same bits after a restart, nothing lost to damage, undone where it harms, fit to federate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgessl.errors import BudgetError, ConfigError, InputError, StateError, StateLockedError, StateMismatchError
from neuromorphic.device import SpikingLearner
from neuromorphic.espp import echo_network
from neuromorphic.local import predictive_coding
from neuromorphic.network import IntegerNetwork
from neuromorphic.network_file import save_network
from neuromorphic.plastic import frozen

Array = np.ndarray[Any, np.dtype[Any]]
STEPS, N = 10, 12


def samples(count: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).random((count, STEPS, N)) < 0.3).astype(np.uint8)


def opened(where: Path, network: IntegerNetwork | None = None, **settings: Any) -> SpikingLearner:
    network = network or predictive_coding(N, 8, vth=900)
    return SpikingLearner.open(network, where, steps=STEPS, engine="numpy", prototypes=4, **settings)


@pytest.mark.parametrize("kind", ["predictive", "echo"])
def test_a_restart_changes_nothing(kind: str, tmp_path: Path) -> None:
    network = predictive_coding(N, 8, vth=900) if kind == "predictive" else echo_network(N, 8, vth=500)
    x, ids = samples(9), np.arange(9) // 3

    def rest(learner: SpikingLearner) -> Array:
        learner.learn(max_steps=3)
        learner.observe(x[6:], ids[6:])
        learner.learn(max_steps=100)
        return learner.theta

    with opened(tmp_path / "a", network) as through:
        through.observe(x[:6], ids[:6])
        through.learn(max_steps=3)
        expected = rest(through)
    with opened(tmp_path / "b", network) as first:
        z = first.observe(x[:6], ids[:6])
        assert z.shape == (6, 8)
        first.learn(max_steps=3)
        first.enroll(x[0], "one")
        assert first.save() == 1
        metrics = first.metrics()
        first.learn(max_steps=3)  # not saved, and lost
    with opened(tmp_path / "b", network) as second:
        assert second.metrics() == metrics
        assert metrics["pending"] == 3
        second._readout.counts[:] = 0  # the read-out only follows; what the network learns does not hang on it
        np.testing.assert_array_equal(rest(second), expected)


def test_rollback_returns_to_the_saved_and_to_the_factory_state(tmp_path: Path) -> None:
    with opened(tmp_path) as learner:
        factory = learner.theta
        learner.observe(samples(6))
        report = learner.learn(max_steps=2)
        assert (report.steps, report.rejected, report.stopped) == (2, 0, "max_steps = 2 reached")
        saved = learner.theta
        assert (saved != factory).any()
        learner.save()
        learner.learn(max_steps=9)
        assert (learner.theta != saved).any()
        assert learner.rollback() == 1
        np.testing.assert_array_equal(learner.theta, saved)
        assert learner.rollback(to_factory=True) == 0
        np.testing.assert_array_equal(learner.theta, factory)
        assert learner.metrics()["observed"] == 6
        assert learner.learn(max_steps=1).stopped == "nothing is pending; observe more"


def test_a_damaged_slot_costs_one_generation(tmp_path: Path) -> None:
    with opened(tmp_path) as learner:
        learner.observe(samples(4))
        learner.learn(max_steps=2)
        learner.save()
        kept = learner.theta
        learner.learn(max_steps=2)
        learner.save()
    newest = tmp_path / "state.1"
    newest.write_bytes(newest.read_bytes()[:-1])
    with opened(tmp_path) as again:
        np.testing.assert_array_equal(again.theta, kept)
        assert again.metrics()["generation"] == 1
        assert "state.1" in again.metrics()["damaged_slots"][0]


def test_learning_that_leaves_the_range_of_rates_is_undone(tmp_path: Path) -> None:
    with opened(tmp_path, rates=(0.9, 1.0)) as learner:
        learner.observe(samples(40))
        before = learner.theta
        report = learner.learn(max_steps=40)
        assert (report.steps, report.rejected, report.rolled_back_to) == (0, 32, 0)
        assert report.stopped.startswith("rolled back: hidden fires at ")
        np.testing.assert_array_equal(learner.theta, before)


def test_few_labels_name_what_it_sees(tmp_path: Path) -> None:
    x = samples(2, 5)
    with opened(tmp_path) as learner:
        assert learner.novelty(x).tolist() == [1, 1]
        with pytest.raises(InputError, match="nothing is enrolled yet"):
            learner.classify(x)
        learner.enroll(x[0], "a")
        learner.enroll(x[1], "b")
        found = learner.classify(x)
        assert isinstance(found, list)
        assert [p.label for p in found] == ["a", "b"]
        assert learner.novelty(x[0]) < 0.01
        with pytest.raises(InputError, match="printable"):
            learner.enroll(x[0], "")


def test_the_queue_keeps_to_its_bytes_and_the_oldest_falls_out(tmp_path: Path) -> None:
    one = STEPS * N // 8
    with opened(tmp_path, queue_bytes=3 * one) as learner:
        learner.observe(samples(5))
        assert (learner.metrics()["pending"], learner.metrics()["dropped"]) == (3, 2)
    with pytest.raises(BudgetError, match=f"one sample takes {one}"):
        opened(tmp_path / "b", queue_bytes=one - 1)


def test_a_federated_round_takes_it_for_a_learner(tmp_path: Path) -> None:
    """The client's own code, unchanged: adopt, learn, save, reply."""
    client = pytest.importorskip("federated.client", reason="pip install 'edgessl[federated]'")
    from flwr.app import Message, MessageType

    from federated.compat import local_identity
    from federated.message import pack, unpack

    with local_identity(), opened(tmp_path) as learner:
        assert client.catch_up(learner, samples(5).astype(np.float32)) == 5
        digest, size = learner.bundle.digest, learner.bundle.manifest.theta_size
        given = np.clip(np.random.default_rng(0).normal(0, 20, size), -256, 255).astype(np.float32)
        question = Message(pack(given, bundle_digest=digest, round_number=1), 100, MessageType.TRAIN)
        reply = client.train_round(question, learner, 3)
        update = unpack(reply.content, bundle_digest=digest, size=size)
        np.testing.assert_array_equal(update.theta, learner.theta)
        assert np.abs(update.theta - np.rint(given)).max() > 0
        assert learner.metrics()["generation"] == 1


def test_adopted_weights_are_integers_in_range(tmp_path: Path) -> None:
    with opened(tmp_path) as learner:
        theta = np.linspace(-400, 400, len(learner.theta)).astype(np.float32)
        learner.adopt(theta)
        np.testing.assert_array_equal(learner.theta, np.clip(np.rint(theta), -256, 255))
        with pytest.raises(InputError, match="float32"):
            learner.adopt(theta[:-1])
        theta[0] = np.nan
        with pytest.raises(InputError, match="NaN or infinity"):
            learner.adopt(theta)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as learner:
        for wrong, message in (
            (samples(1)[:, :4], r"expected shape \[10, 12\]"),
            (samples(1) * 2, "expected spikes, 0 or 1"),
            (np.full((STEPS, N), np.nan), "expected spikes, 0 or 1"),
        ):
            with pytest.raises(InputError, match=message):
                learner.observe(wrong)
        with pytest.raises(InputError, match="recording must be 2 whole numbers"):
            learner.observe(samples(2), np.array([1]))
        with pytest.raises(InputError, match="give max_seconds or max_steps"):
            learner.learn()
        assert learner.metrics()["observed"] == 0
        with pytest.raises(StateLockedError):
            opened(tmp_path / "a")
        learner.save()
    with pytest.raises(StateError, match="closed"):
        learner.observe(samples(1))
    with pytest.raises(StateMismatchError):
        opened(tmp_path / "a", novelty=0.5)
    with pytest.raises(ConfigError, match="no plastic connection"):
        opened(tmp_path / "c", frozen(predictive_coding(N, 8)))
    with pytest.raises(ConfigError, match="settings are steps, population"):
        opened(tmp_path / "d", novelity=0.5)
    path = save_network(predictive_coding(N, 8), tmp_path / "pc.network")
    with SpikingLearner.open(path, tmp_path / "e", steps=STEPS, engine="numpy") as from_file:
        assert from_file.settings.population == "hidden"
