"""Power loss between any two system calls, a disk that refuses at any of them, and damaged journals."""

import contextlib
import errno
import itertools
import os
import time

import numpy as np
import pytest
from crash_model import Recorder, crashes

from edgessl.device.memory.replay import ReplayMemory
from edgessl.device.storage.checkpoint import Checkpoint
from edgessl.errors import StateError

DIGEST = "ab" * 32
SHAPE = (2, 3)
CAPACITY = 24  # samples


def memory(seed=0):
    return ReplayMemory(CAPACITY * 24, SHAPE, seed=seed)


def sample(i):
    return np.full((1, *SHAPE), i, np.float32)


def save(checkpoint, replay, value, trial=False):
    arrays = {f"memory.{k}": v for k, v in replay.tensors().items()}
    arrays["slot.theta"] = np.full(50, value, np.float32)
    return checkpoint.write(checkpoint.prepare(arrays, {}, trial))


def restored(saved):
    replay = memory()
    replay.restore(saved.part("memory"))
    return replay


def same(a, b):
    one, two = a.tensors(), b.tensors()
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def copy_of(replay):
    again = memory()
    again.restore({k: v.copy() for k, v in replay.tensors().items()})
    return again


def grow(directory, saves, mark=lambda generation: None, per_save=5):
    """A life of `saves` saves; the memory at each generation."""
    history, checkpoint, replay = {}, Checkpoint(directory, DIGEST), memory()
    with contextlib.closing(checkpoint.store):
        for i in range(saves):
            for j in range(per_save):
                replay.add(sample(per_save * i + j))
            generation = save(checkpoint, replay, i + 1)
            history[generation] = copy_of(replay)
            mark(generation)
    return history


def reopen(directory):
    checkpoint = Checkpoint(directory, DIGEST)
    with contextlib.closing(checkpoint.store):
        return checkpoint.load(), checkpoint.store.problems


def test_what_is_saved_comes_back_and_files_stay_bounded(tmp_path):
    checkpoint, replay, most = Checkpoint(tmp_path, DIGEST), memory(), 0
    for i in range(60):
        for j in range(7):
            replay.add(sample(7 * i + j))
        save(checkpoint, replay, i)
        most = max(most, sum(f.stat().st_size for f in tmp_path.glob("memory.*")))
    checkpoint.store.close()
    assert most <= checkpoint.bound_bytes
    saved, problems = reopen(tmp_path)
    assert problems == []
    assert same(restored(saved), replay)


def test_a_save_costs_what_changed(tmp_path):
    checkpoint, replay = Checkpoint(tmp_path, DIGEST), memory()
    for i in range(CAPACITY):
        replay.add(sample(i))
    save(checkpoint, replay, 0)
    before, journal = checkpoint.written, next(tmp_path.glob("memory.*")).stat().st_size
    replay.add(sample(99))
    save(checkpoint, replay, 1)
    slot = (tmp_path / "state.1").stat().st_size
    assert checkpoint.written - before == slot + 32  # one record: 8 bytes and 6 float32
    assert next(tmp_path.glob("memory.*")).stat().st_size == journal + 32
    checkpoint.store.close()


def survives(place, acknowledged, files, history):
    """Whether a directory that a crash left opens with the acknowledged generation or a later one, whole."""
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    try:
        saved, problems = reopen(place)
    except StateError:
        return False
    if saved is None or problems:
        return acknowledged is None and not problems
    whole = same(restored(saved), history[saved.generation]) and saved.tensors["slot.theta"][0] == saved.generation
    return whole and saved.generation >= (acknowledged or 0)


def lives(tmp_path, monkeypatch, saves, each):
    home = tmp_path / "state"
    home.mkdir()
    with monkeypatch.context() as patch:
        recorder = Recorder(patch, home)
        history = grow(home, saves, recorder.mark)
    kinds = {event[0] for event in recorder.trace}
    outcomes = [
        survives(tmp_path / f"crash{i}", acknowledged, files, history)
        for i, (acknowledged, files) in enumerate(crashes(recorder.trace, each))
    ]
    return kinds, outcomes


def test_power_loss_at_every_call_keeps_what_was_acknowledged(tmp_path, monkeypatch):
    kinds, outcomes = lives(tmp_path, monkeypatch, saves=14, each=4)
    assert kinds >= {"write", "fsync", "rename", "truncate", "unlink"}
    assert len(outcomes) > 400
    assert all(outcomes)


@pytest.mark.parametrize("forgotten", ["file", "directory"])
def test_the_model_of_power_loss_notices_a_forgotten_sync(tmp_path, monkeypatch, forgotten):
    monkeypatch.setattr(Recorder, "counts", lambda self, name: (name == "") != (forgotten == "directory"))
    assert not all(lives(tmp_path, monkeypatch, saves=3, each=8)[1])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_at_any_call(tmp_path, monkeypatch, code):
    """Every call of a save fails in turn, once; nothing acknowledged is lost and the next save works."""
    calls = ("open", "write", "ftruncate", "fsync", "replace")
    real = {name: getattr(os, name) for name in calls}
    checkpoint, replay = Checkpoint(tmp_path, DIGEST), memory()
    count, fail_at, value, refused = 0, 0, 0, 0

    def guarded(name):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == fail_at:
                raise OSError(code, os.strerror(code))
            return real[name](*args, **kwargs)

        return call

    for name in calls:
        monkeypatch.setattr(os, name, guarded(name))
    while True:
        value += 1
        replay.add(sample(value))
        before = checkpoint.store.generation
        count, fail_at = 0, (value - 1) // 2 % 40 + 1  # each call fails in two saves: appending, and after a failure
        said = ""
        try:
            save(checkpoint, replay, value)
        except StateError as error:
            said, refused = str(error), refused + 1
        fail_at = 0
        if said:
            assert os.strerror(code) in said
            assert checkpoint.store.generation == before
            save(checkpoint, replay, value)  # what could not be saved is saved now
        if value == 60:
            break
    assert refused >= 15
    checkpoint.store.close()
    saved, problems = reopen(tmp_path)
    assert problems == []
    assert same(restored(saved), replay)


def test_damage_to_the_journal_costs_samples_not_what_was_learned(tmp_path):
    history = grow(tmp_path, 3)
    last, name = history[3], next(tmp_path.glob("memory.*"))
    whole = name.read_bytes()
    n, size = len(last), 32
    for cut in (len(whole) - 1, len(whole) - size * 4, 64 + size + 3):
        name.write_bytes(whole[:cut])
        saved, problems = reopen(tmp_path)
        lost = n - (cut - 64) // size
        assert f"{lost} of {n} remembered samples are lost" in problems[0]
        replay = restored(saved)
        assert len(replay) == n
        assert set(np.unique(replay.tensors()["slots"])) <= set(np.unique(last.tensors()["slots"]))
        assert saved.tensors["slot.theta"][0] == 3
    flipped = bytearray(whole)
    flipped[64 + size * 2 + 11] ^= 4
    name.write_bytes(flipped)
    assert f"{n - 2} of {n} remembered samples are lost" in reopen(tmp_path)[1][0]
    for nothing in (b"", whole[:63], b"x" * len(whole)):
        name.write_bytes(nothing)
        saved, problems = reopen(tmp_path)
        assert f"{n} of {n} remembered samples are lost" in problems[0]
        assert saved.part("memory") == {}
        assert saved.tensors["slot.theta"][0] == 3
    name.unlink()
    assert "No such file" in reopen(tmp_path)[1][0]


def test_records_of_another_time_or_place_are_refused(tmp_path):
    """A replayed record has a good CRC for its old place only; a rewritten one fails the slot's SHA-256."""
    import zlib

    from edgessl.device.storage.journal import CONTEXT, RECORD

    grow(tmp_path, 2)
    name = next(tmp_path.glob("memory.*"))
    whole = name.read_bytes()
    moved = bytearray(whole)
    moved[64 + 32 : 64 + 64] = whole[64 : 64 + 32]
    name.write_bytes(moved)
    assert "record 1: checksum is wrong" in reopen(tmp_path)[1][0]
    forged, content = bytearray(whole), np.full(6, 666, np.float32).tobytes()
    crc = zlib.crc32(content, zlib.crc32(CONTEXT.pack(1, 1, 1)))
    forged[64 + 32 : 64 + 64] = RECORD.pack(1, crc) + content
    name.write_bytes(forged)
    saved, problems = reopen(tmp_path)
    assert "SHA-256 is not the slot's; 10 of 10 remembered samples are lost" in problems[0]
    assert saved.part("memory") == {}


def test_a_clock_that_runs_backwards_changes_nothing(tmp_path, monkeypatch):
    """Generations decide, never times: neither the clock's nor the files'."""
    clock = itertools.count(2_000_000_000, -86_400)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    history = grow(tmp_path, 9)
    for age, name in enumerate(sorted(os.listdir(tmp_path))):
        os.utime(tmp_path / name, (10**9 * (age % 2), 10**9 * (age % 2)))
    os.utime(tmp_path / "state.0", (4_000_000_000, 4_000_000_000))
    for newer in ("state.0", "state.1"):
        os.utime(tmp_path / newer, (0, 0))
        saved, problems = reopen(tmp_path)
        assert (saved.generation, problems) == (9, [])
        assert same(restored(saved), history[9])
