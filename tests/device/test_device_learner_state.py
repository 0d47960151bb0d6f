"""A learner's state directory: trial, device key, a damaged journal, saving while others observe."""

import threading

import numpy as np
import pytest

from edgessl.device import Learner
from edgessl.device.storage import files as files_module
from edgessl.errors import StateError

KEY = bytes(range(32))


def taught(learner, kit, seed=0, n=40):
    learner.observe(kit.samples(n, seed=seed))
    learner.learn(max_steps=5)
    return learner.theta


def test_a_trial_of_what_was_learned(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path) as learner:
        good = taught(learner, kit)
        learner.save()
        worse = taught(learner, kit, seed=1)
        learner.save(trial=True)
    with Learner.open(bundle, tmp_path) as learner:
        np.testing.assert_array_equal(learner.theta, worse)
        assert learner.rollback() == 1  # what the guard calls for
        np.testing.assert_array_equal(learner.theta, good)
    with Learner.open(bundle, tmp_path) as learner:
        np.testing.assert_array_equal(learner.theta, good)
        learner.save(trial=True)
        assert learner.mark_good() == learner.metrics()["generation"] == 4
        assert learner.mark_good() == 4
    with Learner.open(bundle, tmp_path) as learner:
        assert learner.metrics()["generation"] == 4


def test_the_factory_state_is_always_there(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path) as learner:
        factory = learner.theta
        for seed in range(4):
            taught(learner, kit, seed)
            learner.save()
        assert not np.array_equal(learner.theta, factory)
        assert learner.rollback(to_factory=True) == 0
        np.testing.assert_array_equal(learner.theta, factory)


def test_state_of_another_device_is_refused(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path, device_key=KEY) as learner:
        theta = taught(learner, kit)
        learner.save()
    with pytest.raises(StateError, match="another one"):
        Learner.open(bundle, tmp_path, device_key=bytes(32))
    with pytest.raises(StateError, match="no device key was given"):
        Learner.open(bundle, tmp_path)
    with Learner.open(bundle, tmp_path, device_key=lambda: KEY) as learner:
        np.testing.assert_array_equal(learner.theta, theta)


def test_a_lost_journal_does_not_cost_the_weights(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path) as learner:
        theta = taught(learner, kit)
        learner.save()
    next(tmp_path.glob("memory.*")).unlink()
    with Learner.open(bundle, tmp_path) as learner:
        np.testing.assert_array_equal(learner.theta, theta)
        assert learner.metrics()["remembered"] == 0
        assert "40 of 40 remembered samples are lost" in learner.metrics()["damaged_slots"][0]
        taught(learner, kit, seed=3)
        learner.save()
    with Learner.open(bundle, tmp_path) as learner:
        assert (learner.metrics()["remembered"], learner.metrics()["damaged_slots"]) == (40, [])


def test_observing_does_not_wait_for_the_disk(bundle, kit, tmp_path, monkeypatch):
    """A sync that hangs holds up the save, and nobody who observes."""
    hanging, release = threading.Event(), threading.Event()
    real = files_module.os.fsync

    def fsync(fd):
        hanging.set()
        assert release.wait(30)
        real(fd)

    with Learner.open(bundle, tmp_path) as learner:
        learner.observe(kit.samples(8))
        monkeypatch.setattr(files_module.os, "fsync", fsync)
        saving = threading.Thread(target=learner.save)
        saving.start()
        assert hanging.wait(30)
        assert learner.observe(kit.samples(8)).shape == (8, 6)
        assert learner.metrics()["observed"] == 16
        release.set()
        saving.join()
        assert learner.metrics()["generation"] == 1
