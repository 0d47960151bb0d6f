"""Do no harm to the past: what is harm, when learning freezes, and that ordinary learning is neither."""

import numpy as np
import pytest

from edgessl.device import Learner
from edgessl.device.guard.examination import Examination, Probe, effective_rank, harm, neighbour_overlap, spread


def embeddings(n=64, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def test_measures_in_closed_form():
    cross = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    assert effective_rank(cross) == pytest.approx(4)
    assert spread(cross) == pytest.approx(1)
    assert effective_rank(np.array([[1, 1], [1, -1], [1, 1], [1, -1]], np.float32)) == pytest.approx(1)
    assert effective_rank(np.ones((9, 3), np.float32)) == 1
    assert spread(np.ones((9, 3), np.float32)) == pytest.approx(0, abs=1e-7)
    assert neighbour_overlap(embeddings(), 3 * embeddings()) == 1
    assert neighbour_overlap(embeddings(), embeddings(seed=1)) == pytest.approx(5 / 63, abs=0.05)


def test_what_is_harm_and_what_is_not():
    z = embeddings()
    turn = np.linalg.qr(embeddings(8))[0]
    assert harm(z, z @ turn) == ""  # a rotation keeps everything
    assert harm(z, z @ turn + 0.5 * embeddings(seed=2)) == ""
    assert "neighbours of the past" in harm(z, embeddings(seed=3))
    assert "spread of the past" in harm(z, 1 + 0.01 * z)
    flat = z.copy()
    flat[:, 1:] *= 0.01
    assert "effective rank" in harm(z, flat)
    assert harm(z[:15], embeddings(15, seed=3)) == ""  # too few to say
    assert harm(np.ones_like(z), np.ones_like(z)) == ""  # a constant past has no neighbours


def test_probes_are_compared_with_the_best_they_were():
    exam = Examination()
    assert [exam.probes(Probe(right, 20, 1)) for right in (18, 19, 17, 18)] == [""] * 4
    assert exam.probes(Probe(16, 20, 1)) == "probes: 16 of 20 exemplars recognised, were 19"
    assert exam.probes(Probe(10, 20, 2)) == ""  # others are enrolled now
    assert exam.probes(None) == ""
    again = Examination()
    again.restore(exam.tensors())
    assert again.probes(Probe(7, 20, 2)) == exam.probes(Probe(7, 20, 2)) != ""


def centres(n):
    return np.random.default_rng(3).normal(size=(n, 1, 4, 4)).astype(np.float32)


def near(x, n, rng):
    return x + 0.1 * rng.normal(size=(n, *x.shape)).astype(np.float32)


@pytest.fixture
def learner(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path / "state") as learner:
        rng = np.random.default_rng(0)
        for label, centre in zip("abcd", centres(4), strict=True):
            learner.enroll(near(centre, 5, rng), label)
            learner.observe(near(centre, 60, rng))
        learner.observe(kit.samples(100))
        yield learner


def test_ordinary_learning_is_no_harm(learner, kit):
    for i in range(12):
        learner.observe(kit.samples(40, seed=i, shift=0.1 * i))
        report = learner.learn(max_steps=20)
        assert report.rolled_back_to is None, report.stopped
        learner.save()
    assert learner.metrics()["rollbacks"] == 0
    assert not learner.metrics()["frozen"]


def scramble(learner, seed=0):
    """As if steps had left the weights one direction to look at, which says nothing about what was known."""
    state = learner._trainer.state()
    theta, rng = state["theta"].copy(), np.random.default_rng(seed + 50)
    known = np.concatenate([centres(4).reshape(4, 16), np.ones((1, 16))]).T
    one = rng.normal(size=16)
    one -= known @ np.linalg.lstsq(known, one, rcond=None)[0]
    theta[:-2] = 20 * np.outer(one, rng.normal(size=6)).ravel() + 1e-4 * rng.normal(size=96)
    learner._trainer.load({**state, "theta": theta})
    learner.hyper["lr"] = 0.0


def test_harm_is_rolled_back_then_learning_freezes_until_told(learner):
    learner.learn(max_steps=20)
    generation, good = learner.save(), learner.theta
    for attempt in range(1, 4):
        scramble(learner, attempt)
        report = learner.learn(max_steps=learner._exam.every)
        assert report.rolled_back_to == generation
        assert "of the past" in report.stopped or "probes" in report.stopped
        np.testing.assert_array_equal(learner.theta, good)
        assert learner.metrics()["rollbacks"] == attempt
        assert learner.metrics()["frozen"] is (attempt == 3)
    report = learner.learn(max_steps=5)
    assert (report.steps, report.stopped) == (0, "frozen after 3 rollbacks; see thaw()")
    learner.observe(near(centres(1)[0], 5, np.random.default_rng(1)))  # everything else goes on
    learner.thaw()
    assert learner.learn(max_steps=5).steps == 5


def test_frozen_is_still_frozen_after_a_restart(bundle, tmp_path, learner):
    for attempt in range(3):
        scramble(learner, attempt)
        learner.learn(max_steps=learner._exam.every)
    assert learner.metrics()["frozen"]
    learner.save(trial=True)
    learner.close()
    with Learner.open(bundle, tmp_path / "state") as again:
        assert again.metrics()["frozen"]


def test_what_did_harm_is_never_saved_as_good(learner):
    learner.learn(max_steps=20)
    generation, good = learner.save(), learner.theta
    scramble(learner)
    assert learner.learn(max_steps=1).rolled_back_to is None  # not yet examined
    assert learner.save() == generation + 1
    np.testing.assert_array_equal(learner.theta, good)
    scramble(learner)
    learner.learn(max_steps=1)
    learner.save(trial=True)
    learner.mark_good()  # refused: the trial ends at the last good generation
    np.testing.assert_array_equal(learner.theta, good)
    learner.rollback()
    np.testing.assert_array_equal(learner.theta, good)


def test_probes_notice_what_no_neighbourhood_shows(learner):
    """Exemplars that were recognised and are not: here because the labels' own direction is projected out."""
    learner.learn(max_steps=20)
    learner.save()
    learner.learn(max_steps=1)
    assert learner._examine() == ""  # the best so far
    learner.hyper["lr"] = 0.0
    before = learner._exam._best
    assert before >= 15
    embed = learner._embed

    def confused(samples, theta=None):  # rows in another order: as many neighbours, other labels
        z = embed(samples, theta)
        return z if len(z) != 20 else z[np.random.default_rng(0).permutation(20)]

    learner._embed = learner._past._embed = confused
    report = learner.learn(max_steps=learner._exam.every)
    assert "exemplars recognised" in report.stopped


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e4])
def test_a_stuck_sensor_neither_fills_the_memory_nor_ruins_the_model(learner, kit, value):
    learner.learn(max_steps=20)
    learner.save()
    probe = np.concatenate([near(c, 20, np.random.default_rng(9)) for c in centres(4)])
    truth = [label for label in "abcd" for _ in range(20)]
    right = lambda: np.mean([p.label == t for p, t in zip(learner.classify(probe), truth, strict=True)])  # noqa: E731
    before, remembered = right(), learner.metrics()["remembered"]
    for _ in range(20):
        learner.observe(np.full((50, 1, 4, 4), value, np.float32))
        learner.learn(max_steps=10)
    assert learner.metrics()["remembered"] <= remembered + 8
    assert learner.metrics()["repeated_samples"] >= 990
    assert right() > before - 0.1
