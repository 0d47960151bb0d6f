"""Observing never waits; what was accepted is remembered, whatever the queue, the disk or the worker do."""

import json
import threading
import time

import numpy as np
import pytest

from edgessl.device import Learner
from edgessl.device.background import BackgroundLearner
from edgessl.device.metrics import json_line, prometheus
from edgessl.device.scheduler import ENERGY_PROFILES, Scheduler
from edgessl.device.storage import files as files_module
from edgessl.errors import ConfigError, InputError, ParityError, StateError


@pytest.fixture
def start(bundle, tmp_path):
    running = []

    def make(**options):
        running.append(BackgroundLearner(Learner.open(bundle, tmp_path / f"{len(running)}"), **options))
        return running[-1]

    yield make
    for learner in running:
        learner.close(save=False)


def hold(learner):
    """Keep the worker from remembering until the returned event is set."""
    release, real = threading.Event(), learner.learner.remember

    def remember(percept):
        assert release.wait(30)
        real(percept)

    learner.learner.remember = remember
    return release


def test_everything_accepted_is_remembered_saved_and_learned_from(bundle, kit, tmp_path):
    samples = kit.samples(300)
    with BackgroundLearner(Learner.open(bundle, tmp_path), when_full="wait", wait_seconds=30) as learner:
        threads = [
            threading.Thread(target=lambda part=part: [learner.observe(x) for x in part])
            for part in samples.reshape(3, 100, 1, 4, 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert learner.flush(30)
        counts = learner.metrics()
        assert (counts["accepted"], counts["observed"], counts["dropped"], counts["queued"]) == (300, 300, 0, 0)
    with Learner.open(bundle, tmp_path) as again:
        assert again.metrics()["observed"] == again.metrics()["remembered"] == 300
        held = {row.tobytes() for row in again._memory.tensors()["slots"]}
        assert held == {row.tobytes() for row in samples}


def test_learning_follows_the_stream(start, kit):
    learner = start(steps_per_sample=0.5)
    for x in kit.samples(40):
        learner.observe(x)
    deadline = time.monotonic() + 30
    while learner.metrics()["steps"] < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    learner.flush(30)
    time.sleep(0.1)
    assert (
        12 <= learner.metrics()["steps"] <= 20
    )  # 40 samples pay for 20, the first 8 for steps before a batch is there


def test_a_full_queue_drops_counts_and_does_not_wait(start, kit):
    learner = start(queue_samples=8)
    release = hold(learner)
    learner.observe(kit.samples(1)[0])
    accepted = [learner.observe(x).accepted for x in kit.samples(20, seed=1)]
    assert not all(accepted)
    assert accepted[:7] == [True] * 7
    release.set()
    assert learner.flush(30)
    counts = learner.metrics()
    assert counts["dropped"] == accepted.count(False)
    assert counts["observed"] == counts["accepted"] == 1 + accepted.count(True)


def test_a_batch_is_taken_whole_or_not_at_all(start, kit):
    learner = start(queue_samples=8)
    release = hold(learner)
    first = learner.observe(kit.samples(8))
    second = learner.observe(kit.samples(8, seed=1))
    assert first.accepted
    assert first.embedding.shape == second.embedding.shape == (8, 6)  # embedded all the same
    release.set()
    learner.flush(30)
    assert learner.metrics()["observed"] == (16 if second.accepted else 8)
    with pytest.raises(InputError, match="9 samples at once, the queue holds 8"):
        learner.observe(kit.samples(9))


def test_the_queue_keeps_copies(start, kit):
    learner = start()
    release = hold(learner)
    x = kit.samples(1)[0]
    wanted = x.copy()
    learner.observe(x)
    x[...] = 0
    release.set()
    learner.flush(30)
    np.testing.assert_array_equal(learner.learner._memory.tensors()["slots"][0], wanted)


def test_waiting_for_room_ends(start, kit):
    learner = start(queue_samples=1, when_full="wait", wait_seconds=0.05)
    release = hold(learner)
    answers = [learner.observe(x).accepted for x in kit.samples(3)]
    assert answers[0]
    assert not answers[2]
    release.set()


def test_a_full_disk_is_counted_and_tried_again(start, kit, monkeypatch):
    learner = start(save_seconds=0.02)
    broken, real = threading.Event(), files_module.os.fsync
    broken.set()

    def fsync(fd):
        if broken.is_set():
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(files_module.os, "fsync", fsync)
    learner.observe(kit.samples(1)[0])
    wait(lambda: learner.metrics()["failures"] >= 2)
    assert "No space left on device" in learner.metrics()["last_failure"]
    assert learner.observe(kit.samples(1)[0]).accepted
    broken.clear()
    wait(lambda: learner.metrics()["saves"] >= 1)


def test_a_worker_that_fails_says_so(start, kit, caplog):
    learner = start()

    def fail(percept):
        raise ZeroDivisionError("a bug")

    learner.learner.remember = fail
    learner.observe(kit.samples(1)[0])
    assert not learner.flush(30)
    with pytest.raises(StateError, match="the background worker failed: ZeroDivisionError"):
        learner.observe(kit.samples(1)[0])
    with pytest.raises(StateError, match="the background worker failed"):
        learner.close()


def test_close(start, kit):
    learner = start()
    learner.observe(kit.samples(3))
    learner.close()
    learner.close()
    assert not learner._thread.is_alive()
    with pytest.raises(StateError, match="closed"):
        learner.observe(kit.samples(1)[0])


@pytest.mark.parametrize(
    "options",
    [{"queue_samples": 0}, {"when_full": "x"}, {"steps_per_sample": -1}, {"slice_seconds": 0}, {"settle_after": -1}],
)
def test_settings(bundle, tmp_path, options):
    with Learner.open(bundle, tmp_path) as learner, pytest.raises(ConfigError, match="background learner: expected"):
        BackgroundLearner(learner, **options)


def test_it_settles_where_nothing_is_learned(start, kit):
    calm = threading.Event()
    learner = start(scheduler=Scheduler(idle=calm.is_set), settle_after=20)
    x = kit.samples(16)
    learner.observe(x)
    assert learner.flush(30)
    assert learner.metrics()["settled"] is False
    before = learner.observe(x).embedding
    wait(lambda: learner.metrics()["settled"])
    np.testing.assert_allclose(learner.observe(x).embedding, before, rtol=1e-5, atol=1e-6)
    calm.set()
    wait(lambda: learner.metrics()["steps"] > 0)
    assert not np.allclose(learner.observe(x).embedding, before, rtol=1e-5)


def test_what_cannot_settle_goes_on(start, kit):
    learner = start(steps_per_sample=0.0, settle_after=8)

    def fail() -> None:
        raise ParityError("settle: off")

    learner.learner.settle = fail
    learner.observe(kit.samples(16))
    wait(lambda: learner.metrics()["failures"] == 1)
    assert learner.metrics()["last_failure"] == "settle: off"
    assert learner.observe(kit.samples(1)).accepted


def test_no_learning_while_the_scheduler_says_no(start, kit):
    calm = threading.Event()
    learner = start(scheduler=Scheduler(idle=calm.is_set), slice_seconds=0.01)
    learner.observe(kit.samples(64))
    wait(lambda: learner.metrics()["not_learning"] == "the device is busy")
    assert learner.metrics()["attempts"] == 0
    calm.set()
    wait(lambda: learner.metrics()["steps"] > 0)


def test_scheduler():
    now, degrees = [0.0], [20.0]
    scheduler = Scheduler(celsius=lambda: degrees[0], duty=0.25, clock=lambda: now[0])
    assert scheduler.obstacle() == ""
    for value, free in ((74.9, True), (75.0, False), (66.0, False), (64.9, True), (70.0, True), (float("nan"), False)):
        degrees[0] = value
        assert (scheduler.obstacle() == "") == free, value
    degrees[0] = 20.0
    scheduler.learned(2.0)
    assert scheduler.obstacle() == "resting (duty cycle)"
    now[0] = 6.0  # 2 of 8 seconds
    assert scheduler.obstacle() == ""
    assert Scheduler(mains_power=lambda: False).obstacle() == "on battery"
    assert "a hook failed: ZeroDivisionError" in Scheduler(idle=lambda: 1 / 0).obstacle()
    for wrong in ({"duty": 0.0}, {"duty": 1.5}, {"resume_celsius": 90.0}):
        with pytest.raises(ConfigError):
            Scheduler(**wrong)
    assert ENERGY_PROFILES["saver"].duty < ENERGY_PROFILES["balanced"].duty == 1


def test_metrics_as_json_lines_and_for_prometheus(start, kit):
    learner = start()
    learner.observe(kit.samples(3))
    learner.flush(30)
    snapshot = {**learner.metrics(), "step_seconds": float("nan")}
    line = json_line(snapshot, device="7")
    assert "\n" not in line
    assert json.loads(line)["observed"] == 3
    assert json.loads(line)["step_seconds"] is None
    text = prometheus(learner.metrics(), device='a"b\\c\nd')
    values = {}
    for row in text.splitlines():  # the exposition format, read by its grammar
        if not row.startswith("#"):
            name, rest = row.split("{", 1)
            labels, value = rest.rsplit("} ", 1)
            assert labels == 'device="a\\"b\\\\c\\nd"'
            values[name] = float(value)
    assert values["edgessl_observed_samples_total"] == 3
    assert {"edgessl_steps_total", "edgessl_dropped_samples_total", "edgessl_rollbacks_total"} <= set(values)
    assert "# TYPE edgessl_queued_samples gauge" in text
    assert text.endswith("\n")


def wait(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
