"""A settled learner embeds with constant weights: the same embeddings, faster, and never those of other weights."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgessl.device import Bundle, Learner, SessionProfile
from edgessl.device.perception import Perception
from edgessl.errors import BudgetError, InputError, ParityError


@pytest.fixture
def learner(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path / "state", memory_bytes=1 << 14) as learner:
        learner.observe(kit.samples(64, 0))
        yield learner


def exact(learner: Learner, x: np.ndarray) -> np.ndarray:
    """By the encoder whose weights are an input, given those that the state holds."""
    encoder, _ = learner.bundle.runners(SessionProfile())
    return encoder.embed(learner.slot(learner.bundle.manifest.embed_slot), x)


def test_embeddings_stay_what_they_were(learner, kit):
    x = kit.samples(40, 1)
    learner.learn(max_steps=3)
    for label, sample in zip("abcd", x, strict=False):
        learner.enroll(sample, label)
    before, labels = learner.embed(x), [p.label for p in learner.classify(x)]
    assert learner.metrics()["settled"] is False
    learner.settle()
    assert learner.metrics()["settled"] is True
    np.testing.assert_allclose(learner.embed(x), before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(learner.embed(x[0]), before[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(learner.observe(x), before, rtol=1e-5, atol=1e-6)
    assert [p.label for p in learner.classify(x)] == labels


def test_settling_embeds_with_another_session(learner, kit, monkeypatch):
    """What the test above compares is not one encoder with itself."""
    learner.settle()
    monkeypatch.setattr(learner._perception._encoder, "embed", None)
    assert learner.embed(kit.samples(3, 1)).shape == (3, learner.bundle.manifest.embedding_dim)
    learner.settle()  # there is nothing left to do


def rolled_back(learner: Learner) -> None:
    learner.rollback(to_factory=True)


def adopted(learner: Learner) -> None:
    learner.adopt(learner.theta * np.float32(1.5))


def learned(learner: Learner) -> None:
    assert learner.learn(max_steps=2).steps == 2


@pytest.mark.parametrize("change", [rolled_back, adopted, learned])
def test_whatever_changes_the_weights_ends_it(learner, kit, change):
    x = kit.samples(8, 1)
    learner.learn(max_steps=5)
    learner.settle()
    old = learner.embed(x)
    change(learner)
    assert learner.metrics()["settled"] is False
    assert not np.allclose(learner.embed(x), old, rtol=1e-4)
    np.testing.assert_array_equal(learner.embed(x), exact(learner, x))
    learner.settle()
    np.testing.assert_allclose(learner.embed(x), exact(learner, x), rtol=1e-5, atol=1e-6)


def test_weights_that_changed_behind_its_back_are_noticed(learner, kit):
    """Not only does the learner let go of it: other weights than those that were settled are never embedded with it."""
    x = kit.samples(8, 1)
    learner.settle()
    state = learner._trainer.state()
    learner._trainer.load({**state, "theta": 2 * state["theta"]})
    assert learner.metrics()["settled"] is False
    np.testing.assert_array_equal(learner.embed(x), exact(learner, x))


def test_learning_is_what_it_is_without(bundle, kit, tmp_path):
    """Settling between steps leaves weights as they would be: steps never see an embedding."""
    found = []
    for settle in (True, False):
        with Learner.open(bundle, tmp_path / str(settle), memory_bytes=1 << 14) as learner:
            for i in range(4):
                learner.observe(kit.samples(16, i))
                if settle:
                    learner.settle()
                learner.learn(max_steps=2)
            found.append(learner.theta)
    np.testing.assert_array_equal(*found)


def test_others_observe_while_it_settles_and_learns(learner, kit):
    x, problems = kit.samples(4, 1), []
    done = threading.Event()

    def observe() -> None:
        while not done.is_set():
            z = learner.embed(x)
            if not np.isfinite(z).all():
                problems.append(z)

    thread = threading.Thread(target=observe)
    thread.start()
    for _ in range(10):
        learner.settle()
        learner.learn(max_steps=1)
    done.set()
    thread.join()
    assert problems == []
    np.testing.assert_array_equal(learner.embed(x), exact(learner, x))


def test_what_it_refuses(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path / "a") as learner, pytest.raises(InputError, match="nothing is remembered"):
        learner.settle()
    with Learner.open(bundle, tmp_path / "b", memory_bytes=1 << 14, exemplar_bytes=0, budget_bytes=64 << 20) as learner:
        learner.observe(kit.samples(8, 0))
        with pytest.raises(BudgetError, match="open the learner without a budget"):
            learner.settle()


class Wrong:
    """An encoder whose constants are not the weights that it was given."""

    def embed(self, theta, x):
        return x.reshape(len(x), -1) * theta.numpy()[0]

    def settled(self, theta):
        return lambda x: self.embed(theta, x) * 1.01


def test_a_session_that_disagrees_is_not_used(bundle: Bundle, kit):
    _, trainer = bundle.runners(SessionProfile())
    perception, x = Perception(Wrong(), trainer, None), kit.samples(8, 0)
    z = perception.embed(x)
    with pytest.raises(ParityError, match=r"1\.0e-02 of their length off, expected at most 0\.001"):
        perception.settle(x)
    assert not perception.settled
    np.testing.assert_array_equal(perception.embed(x), z)
