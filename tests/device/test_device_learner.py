import dataclasses
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from edgessl.device import Learner
from edgessl.errors import (
    BudgetError,
    BundleError,
    ConfigError,
    InputError,
    StateError,
    StateLockedError,
    StateMismatchError,
)


@pytest.fixture
def learner(bundle, tmp_path):
    with Learner.open(bundle, tmp_path / "state") as learner:
        yield learner


def everything(learner):
    """All that a checkpoint holds, as bytes."""
    learner.save()
    saved = learner._checkpoint.load()
    metadata = {k: v for k, v in saved.metadata.items() if k != "journal"}  # how the samples got to the disk
    return {k: (v.dtype, v.shape, v.tobytes()) for k, v in saved.tensors.items()} | metadata


def test_observe_returns_embeddings_and_remembers(learner, kit):
    x = kit.samples(20)
    z = learner.observe(x)
    theta = learner.theta.astype(np.float64)
    expected = (x.reshape(20, -1) - theta[-2]) / theta[-1] @ theta[:-2].reshape(16, 6)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(z, expected, atol=1e-6)
    np.testing.assert_allclose(learner.observe(x[0]), expected[0], atol=1e-6)
    assert learner.metrics()["observed"] == 21
    assert learner.metrics()["remembered"] == 21
    np.testing.assert_array_equal(learner.embed(x), z)
    assert learner.metrics()["observed"] == 21


def test_strided_input_is_the_same_as_contiguous(learner, kit):
    x = kit.samples(20)
    np.testing.assert_array_equal(learner.embed(x[::2]), learner.embed(x[::2].copy()))
    np.testing.assert_array_equal(learner.embed(x.swapaxes(2, 3)), learner.embed(x.swapaxes(2, 3).copy()))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((3, 1, 4, 4)), "float64"),
        (np.zeros((3, 1, 4, 4), np.int32), "astype"),
        ([[0.0]], "list"),
        (np.zeros((0, 1, 4, 4), np.float32), "N >= 1"),
        (np.zeros((3, 4, 4), np.float32), "found \\[3, 4, 4\\]"),
        (np.zeros((2, 3, 1, 4, 4), np.float32), "found"),
        (np.float32(1.0), "found"),
        (np.full((2, 1, 4, 4), np.nan, np.float32), "NaN"),
        (np.full((1, 4, 4), np.inf, np.float32), "infinity"),
    ],
)
@pytest.mark.parametrize("method", ["observe", "embed", "classify", "novelty", "enroll"])
def test_bad_samples_are_refused_and_change_nothing(learner, kit, bad, says, method):
    learner.observe(kit.samples(10))
    before = everything(learner)
    arguments = (bad, "label") if method == "enroll" else (bad,)
    with pytest.raises(InputError, match=says):
        getattr(learner, method)(*arguments)
    assert everything(learner) == before


def test_learning_lowers_the_loss(learner, kit):
    learner.observe(kit.samples(200))
    first = learner.learn(max_steps=5)
    learner.learn(max_steps=200)
    last = learner.learn(max_steps=5)
    assert first.steps == last.steps == 5
    assert last.metrics["loss"] < 0.5 * first.metrics["loss"]
    assert last.rolled_back_to is None
    assert last.rejected == 0
    assert learner.metrics()["steps"] == 210


def test_learn_without_a_batch_says_why(learner, kit):
    learner.observe(kit.samples(7))
    report = learner.learn(max_steps=3)
    assert report.steps == 0
    assert "7 samples remembered, a batch takes 8" in report.stopped


@pytest.mark.parametrize("limits", [{}, {"max_steps": -1}, {"max_seconds": float("nan")}])
def test_learn_wants_a_limit(learner, limits):
    with pytest.raises(InputError, match="max_seconds or max_steps"):
        learner.learn(**limits)


def test_a_step_that_would_overrun_is_not_started(learner, kit):
    learner.observe(kit.samples(20))
    learner._loop.step_seconds = 10.0  # as if steps had been seen to take ten seconds
    report = learner.learn(max_seconds=5.0)
    assert report.steps == 0
    assert "10 s" in report.stopped
    for _ in range(6):
        learner.learn(max_seconds=5.0)
    assert learner.learn(max_seconds=5.0, max_steps=2).steps == 2  # one slow step does not end learning


def test_same_seed_and_stream_give_the_same_bits(bundle, kit, tmp_path):
    states = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        with Learner.open(bundle, tmp_path / name, seed=seed) as learner:
            for i in range(6):
                learner.observe(kit.samples(30, seed=i))
                learner.learn(max_steps=4)
            states.append(everything(learner))
    assert states[0] == states[1]
    assert states[0]["slot.theta"] != states[2]["slot.theta"]


def test_batching_of_the_stream_does_not_matter_for_what_is_remembered(bundle, kit, tmp_path):
    x = kit.samples(300)
    with Learner.open(bundle, tmp_path / "a", memory_bytes=64 * 64) as a:
        a.observe(x)
        whole = {k: v.tobytes() for k, v in a._memory.tensors().items()}
    with Learner.open(bundle, tmp_path / "b", memory_bytes=64 * 64) as b:
        for sample in x:
            b.observe(sample)
        assert {k: v.tobytes() for k, v in b._memory.tensors().items()} == whole


def test_resume_equals_an_uninterrupted_run(bundle, kit, tmp_path):
    def live(learner, i):
        learner.observe(kit.samples(40, seed=i, shift=float(i > 4)))
        learner.learn(max_steps=3)
        learner.enroll(kit.samples(1, seed=i)[0], f"label {i % 3}")
        learner.hyper["lr"] = 0.05 / (1 + i)

    with Learner.open(bundle, tmp_path / "a", memory_bytes=100 * 64) as straight:
        for i in range(8):
            live(straight, i)
            straight.save()
        expected = everything(straight)
        probe = kit.samples(9, seed=77)
        answers = straight.classify(probe)
    for i in range(8):
        with Learner.open(bundle, tmp_path / "b", memory_bytes=100 * 64) as learner:
            live(learner, i)
            learner.save()
    with Learner.open(bundle, tmp_path / "b", memory_bytes=100 * 64) as learner:
        assert everything(learner) == expected
        assert learner.classify(probe) == answers
        assert learner.metrics()["drift_events"] >= 1


def test_few_labels(learner, kit):
    rng = np.random.default_rng(0)
    centres = {label: rng.normal(size=(1, 4, 4)).astype(np.float32) for label in "abc"}
    with pytest.raises(InputError, match="enroll"):
        learner.classify(kit.samples(1))
    for label, centre in centres.items():
        learner.enroll(centre + 0.05 * rng.normal(size=(5, 1, 4, 4)).astype(np.float32), label)
    learner.observe(kit.samples(50))
    learner.learn(max_steps=20)  # the prototypes follow the encoder
    for label, centre in centres.items():
        one = learner.classify(centre)
        assert one.label == label
        assert one.similarity > 0.9
        assert [p.label for p in learner.classify(centre[None].repeat(3, 0))] == [label] * 3


@pytest.mark.parametrize(("head", "room"), [("knn", 9999), ("slda", 9999), ("logistic", 9999), ("ncm", 0), ("slda", 0)])
def test_heads_follow_the_encoder_and_survive_a_restart(bundle, kit, tmp_path, head, room):
    rng = np.random.default_rng(0)
    centres = {label: rng.normal(size=(1, 4, 4)).astype(np.float32) for label in "abc"}
    probe = np.stack([c for c in centres.values() for _ in range(4)])
    probe += 0.05 * rng.normal(size=probe.shape).astype(np.float32)
    with Learner.open(bundle, tmp_path, head=head, exemplar_bytes=room) as learner:
        for label, centre in centres.items():
            learner.enroll(centre + 0.05 * rng.normal(size=(5, 1, 4, 4)).astype(np.float32), label)
        learner.observe(np.concatenate([kit.samples(60), *(probe + 0.01 * k for k in range(5))]).astype(np.float32))
        for _ in range(10):
            learner.learn(max_steps=2)
        answers = learner.classify(probe)
        assert [p.label for p in answers] == [label for label in "abc" for _ in range(4)]
        learner.save()
    with Learner.open(bundle, tmp_path, head=head, exemplar_bytes=room) as learner:
        assert learner.classify(probe) == answers
    with pytest.raises(StateMismatchError, match="exemplar_bytes"):
        Learner.open(bundle, tmp_path, exemplar_bytes=0 if room else 9999)


def test_what_was_never_enrolled_is_unknown_when_asked_for(bundle, kit, tmp_path):
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(1, 4, 4)).astype(np.float32) for _ in range(3))
    near = lambda x, n: x + 0.05 * rng.normal(size=(n, 1, 4, 4)).astype(np.float32)  # noqa: E731
    with Learner.open(bundle, tmp_path, reject=0.1, novelty="mahalanobis") as learner:
        learner.enroll(near(a, 15), "a")
        learner.enroll(near(b, 15), "b")
        assert [p.label for p in learner.classify(near(c, 10))] == ["unknown"] * 10
        known = [p.label for p in learner.classify(np.concatenate([near(a, 50), near(b, 50)]))]
        assert sum(k == "a" for k in known[:50]) + sum(k == "b" for k in known[50:]) >= 75
        learner.observe(near(a, 60))
        assert np.median(learner.novelty(near(b, 20))) > 3 > np.median(learner.novelty(near(a, 20)))


def test_novelty(learner, kit):
    with pytest.raises(InputError, match="observe more"):
        learner.novelty(kit.samples(1))
    learner.observe(kit.samples(400))
    learner.learn(max_steps=50)
    familiar = learner.novelty(kit.samples(100, seed=5))
    strange = learner.novelty(kit.samples(100, seed=5, shift=1.0))
    assert np.median(strange) > np.median(familiar) + 1
    assert learner.novelty(kit.samples(1)[0]).shape == ()


def test_drift_moves_the_anchor_to_what_was_learned(learner, kit):
    learner.observe(kit.samples(300))
    learner.learn(max_steps=30)
    before = learner.theta
    assert not np.array_equal(learner._trainer.state()["anchor"], before)
    learner.observe(kit.samples(100, seed=1, shift=1.0))
    assert learner.metrics()["drift_events"] >= 1
    learner.learn(max_steps=1)
    np.testing.assert_array_equal(learner._trainer.state()["anchor"], before)


def test_drift_before_a_restart_is_not_forgotten(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path) as learner:
        learner.observe(kit.samples(300))
        learner.learn(max_steps=30)
        learner.observe(kit.samples(100, seed=1, shift=1.0))
        theta = learner.theta
        learner.save()
    with Learner.open(bundle, tmp_path) as learner:
        learner.learn(max_steps=1)
        np.testing.assert_array_equal(learner._trainer.state()["anchor"], theta)


def test_hyper(learner, kit, bundle):
    assert dict(learner.hyper) == kit.hyper
    for name, value in (("lrr", 0.1), ("lr", float("nan")), ("lr", "0.1")):
        with pytest.raises(ConfigError, match="lr"):
            learner.hyper[name] = value
    learner.observe(kit.samples(20))
    learner.hyper["lr"] = 0.0
    learner.learn(max_steps=3)
    np.testing.assert_array_equal(learner.theta, bundle.state()["theta"])


def test_adopt_replaces_theta_and_nothing_else(learner, kit):
    learner.observe(kit.samples(50))
    learner.learn(max_steps=5)
    before = learner._trainer.state()
    other = np.random.default_rng(1).normal(size=before["theta"].shape).astype(np.float32)
    other[-2:] = before["theta"][-2:]
    given = other.copy()
    learner.adopt(given)
    given[:] = 0  # the learner has a copy
    np.testing.assert_array_equal(learner.theta, other)
    after = learner._trainer.state()
    for name in ("velocity", "anchor"):
        np.testing.assert_array_equal(after[name], before[name])


def test_adopt_refuses_what_cannot_be_right(learner, kit):
    learner.observe(kit.samples(50))
    before = everything(learner)
    theta = learner.theta
    zero = np.zeros_like(theta)  # finite, but 0 / 0 in every embedding
    for bad in (theta[:-1], theta.astype(np.float64), np.full_like(theta, np.nan), zero):
        with pytest.raises(InputError):
            learner.adopt(bad)
        assert everything(learner) == before


def test_rollback_returns_to_the_saved_generation_then_to_the_factory(learner, kit, bundle):
    learner.observe(kit.samples(50))
    learner.learn(max_steps=5)
    generation, saved = learner.save(), learner.theta
    learner.learn(max_steps=5)
    assert not np.array_equal(learner.theta, saved)
    assert learner.rollback() == generation
    np.testing.assert_array_equal(learner.theta, saved)
    assert learner.metrics()["remembered"] == 50
    assert learner.metrics()["attempts"] == 10
    assert learner.rollback(to_factory=True) == 0
    np.testing.assert_array_equal(learner.theta, bundle.state()["theta"])
    assert learner.metrics()["rollbacks"] == 2


def test_divergence_rolls_back_by_itself(learner, kit):
    learner.observe(kit.samples(50))
    learner.learn(max_steps=10)
    generation, saved = learner.save(), learner.theta
    learner.hyper["lr"] = 1e30
    report = learner.learn(max_steps=50)
    assert report.rolled_back_to == generation
    assert report.stopped.startswith("rolled back: ")
    np.testing.assert_array_equal(learner.theta, saved)
    learner.hyper["lr"] = 0.05
    assert learner.learn(max_steps=5).steps == 5


def test_a_broken_step_is_taken_back(learner, kit):
    learner.observe(kit.samples(50))
    learner.learn(max_steps=3)
    before = learner._trainer.state()
    learner.hyper["noise"] = 3e38  # overflows to infinity within the step
    report = learner.learn(max_steps=2)
    assert (report.steps, report.rejected, report.rolled_back_to) == (0, 2, None)
    for name, value in learner._trainer.state().items():
        np.testing.assert_array_equal(value, before[name])
    assert learner.metrics()["attempts"] == 5


def test_collapse_rolls_back_by_itself(learner, kit):
    learner.observe(kit.samples(50))
    learner.learn(max_steps=20)
    saved = learner.theta
    learner.save()
    learner.hyper["lr"], learner.hyper["anchor"] = 0.05, 1.0
    state = learner._trainer.state()
    learner._trainer.load({**state, "anchor": np.concatenate([0 * saved[:-2], saved[-2:]])})  # pulls to 0
    report = learner.learn(max_steps=400)
    assert "collapse" in report.stopped
    np.testing.assert_array_equal(learner.theta, saved)


def test_settings_must_be_those_of_the_saved_state(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path, seed=1) as learner:
        learner.observe(kit.samples(10))
        learner.save()
    for other in ({"seed": 2}, {"seed": 1, "memory_bytes": 9999}, {"seed": 1, "exemplar_bytes": 999}):
        with pytest.raises(StateMismatchError, match="saved with"):
            Learner.open(bundle, tmp_path, **other)
    Learner.open(bundle, tmp_path, seed=1).close()  # a failed open lets go of the directory


def test_state_of_another_bundle_is_refused(bundle, kit, tmp_path):
    from edgessl.device import pack

    with Learner.open(bundle, tmp_path / "state") as learner:
        learner.save()
    other = pack(tmp_path / "o.edgessl", dataclasses.replace(kit.manifest, name="other"), kit.members)
    with pytest.raises(StateMismatchError, match=bundle.digest[:12]):
        Learner.open(other, tmp_path / "state")


def test_budgets_say_their_minimum(bundle, tmp_path):
    with pytest.raises(BudgetError, match="give 512 bytes or more"):
        Learner.open(bundle, tmp_path, memory_bytes=511)
    with pytest.raises(BudgetError, match="64"):
        Learner.open(bundle, tmp_path, exemplar_bytes=63)
    with Learner.open(bundle, tmp_path, memory_bytes=512, exemplar_bytes=64) as learner:
        assert learner.metrics()["memory_bytes"] <= 512
        assert learner.metrics()["exemplar_bytes"] <= 64


def test_one_directory_one_learner(bundle, tmp_path):
    learner = Learner.open(bundle, tmp_path)
    with pytest.raises(StateLockedError, match="another process or learner"):
        Learner.open(bundle, tmp_path)
    learner.close()
    learner.close()
    with pytest.raises(StateError, match="closed"):
        learner.save()
    with pytest.raises(StateError, match="closed"):
        learner.observe(np.zeros((1, 4, 4), np.float32))
    Learner.open(bundle, tmp_path).close()


def test_missing_bundle(tmp_path):
    with pytest.raises(BundleError, match="nowhere"):
        Learner.open(tmp_path / "nowhere.edgessl", tmp_path)


def test_observing_while_another_thread_learns(learner, kit):
    learner.observe(kit.samples(50))
    reports, done = [], threading.Event()

    def work():
        reports.append(learner.learn(max_steps=300))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    observed = 50
    while not done.is_set():
        learner.observe(kit.samples(3, seed=observed))
        observed += 3
    thread.join()
    assert reports[0].steps == 300
    assert learner.metrics()["observed"] == observed
    assert learner.save() == 1


def test_kill_nine_while_learning(bundle, bundle_path, kit, tmp_path):
    program = f"""
        import os
        import numpy as np
        from edgessl.device import Learner
        learner = Learner.open({str(bundle_path)!r}, {str(tmp_path / "state")!r})
        rng = np.random.default_rng(0)
        while True:
            learner.observe(rng.random((20, 1, 4, 4), dtype=np.float32))
            learner.learn(max_steps=2)
            os.write(1, b"%d\\n" % learner.save())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        seen = [child.stdout.readline() for _ in range(20)]
        child.send_signal(signal.SIGKILL)
        acknowledged = int((seen + child.stdout.read().split())[-1])
    with Learner.open(bundle, tmp_path / "state") as learner:
        counts = learner.metrics()
        assert counts["generation"] >= acknowledged >= 20
        assert counts["steps"] == 2 * counts["generation"]
        assert counts["observed"] == 20 * counts["generation"]
        assert learner.learn(max_steps=2).steps == 2
        assert learner.save() == counts["generation"] + 1
