"""State on disk: whatever happens, the newest acknowledged generation comes back."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgessl.device.storage import state as state_module
from edgessl.device.storage.state import SLOTS, StateStore, decode
from edgessl.errors import FormatError, StateError, StateLockedError, StateMismatchError

DIGEST, OTHER = "ab" * 32, "cd" * 32


def arrays(value, n=1000):
    return {"a": np.full(n, value, np.float32), "b": np.array(value, np.int64)}


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(StateStore(tmp_path / "state", DIGEST)) as store:
        yield store


def reopened(store):
    store.close()
    with contextlib.closing(StateStore(store.directory, DIGEST)) as again:
        return again.load(), again.problems


def test_generations_alternate_between_two_slots(store):
    assert store.load() is None
    for i in range(1, 6):
        assert store.save(arrays(i), {"k": str(i)}) == i
        saved = store.load()
        assert (saved.generation, saved.metadata) == (i, {"k": str(i)})
        np.testing.assert_array_equal(saved.tensors["a"], arrays(i)["a"])
    found = sorted(os.listdir(store.directory))
    assert found == ["lock", *SLOTS]
    assert {decode((store.directory / s).read_bytes())[0].generation for s in SLOTS} == {4, 5}
    assert reopened(store)[0].generation == 5


def test_exact_header(store):
    store.save({"a": np.zeros(1, np.float32)})
    data = (store.directory / "state.0").read_bytes()
    assert data[:8] == b"EDGESTAT"
    assert data[8:16] == b"\1\0\0\0\0\0\0\0"  # version 1, reserved 0
    assert data[16:24] == b"\1\0\0\0\0\0\0\0"  # generation
    assert data[24:56] == bytes.fromhex(DIGEST)
    assert int.from_bytes(data[56:64], "little") == len(data) - 96
    import hashlib

    assert data[64:96] == hashlib.sha256(data[:64] + data[96:]).digest()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_to_the_newest_slot_brings_back_the_one_before(tmp_path, data):
    with contextlib.closing(StateStore(tmp_path, DIGEST)) as store:
        for _ in range(2):
            last = store.save(arrays(3, 50))
        newest = tmp_path / store._good
        raw = bytearray(newest.read_bytes())
        if data.draw(st.booleans()):
            raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
        else:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        newest.write_bytes(raw)
        with pytest.raises(FormatError):
            decode(bytes(raw))
    with contextlib.closing(StateStore(tmp_path, DIGEST)) as store:
        assert store.load().generation == last - 1
        assert newest.name in store.problems[0]
        assert store.save(arrays(4, 50)) == last  # over the damaged slot
        assert store.load().generation == last
        assert store.problems == []


def test_both_slots_damaged_is_an_error_not_a_fresh_start(store):
    store.save(arrays(1))
    store.save(arrays(2))
    for slot in SLOTS:
        (store.directory / slot).write_bytes(b"junk")
    store.close()
    with pytest.raises(StateError, match=r"no slot is intact \(state\.0: .*state\.1: .*factory"):
        StateStore(store.directory, DIGEST)
    assert (store.directory / "state.0").read_bytes() == b"junk"


def test_another_bundle(store):
    store.save(arrays(1))
    store.close()
    with pytest.raises(StateMismatchError, match=f"belongs to bundle {DIGEST[:12]}, not to {OTHER[:12]}"):
        StateStore(store.directory, OTHER)


def test_lock(store):
    with pytest.raises(StateLockedError):
        StateStore(store.directory, DIGEST)
    store.close()
    StateStore(store.directory, DIGEST).close()


def test_leftover_temporary_is_harmless(store):
    store.save(arrays(1))
    (store.directory / "state.tmp").write_bytes(b"half a write")
    assert store.save(arrays(2)) == 2
    assert reopened(store)[0].generation == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_refusing_disk_leaves_the_last_generation(store, monkeypatch, code, call):
    """Faults are injected at the system calls; the store itself is the real one."""
    store.save(arrays(1))
    store.save(arrays(2))

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(state_module.os, call, refuse)
        with pytest.raises(StateError, match=os.strerror(code)):
            store.save(arrays(3))
    assert sorted(os.listdir(store.directory)) == ["lock", *SLOTS]
    assert store.generation == 2
    assert store.load().generation == 2
    assert store.save(arrays(4)) == 3
    assert reopened(store)[0].generation == 3


def test_short_writes_are_continued(store, monkeypatch):
    real = os.write
    monkeypatch.setattr(state_module.os, "write", lambda fd, data: real(fd, data[:100]))
    store.save(arrays(7))
    np.testing.assert_array_equal(store.load().tensors["a"], arrays(7)["a"])


def test_a_file_that_may_not_grow(tmp_path):
    """A real refusal by the kernel in the middle of a write (RLIMIT_FSIZE), in a process of its own."""
    run = run_child(
        tmp_path,
        """
        import resource, signal
        store.save({"a": np.zeros(1000, np.float32)})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            store.save({"a": np.zeros(100_000, np.float32)})
        except StateError as error:
            print(error)
        print(store.load().generation, sorted(os.listdir(store.directory)))
        """,
    )
    out, _ = run.communicate(timeout=60)
    assert "generation 2 cannot be saved: File too large" in out
    assert out.endswith("1 ['lock', 'state.0']\n")


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.011, 0.023, 0.05])
def test_kill_nine_loses_nothing_that_was_acknowledged(tmp_path, delay):
    child = run_child(
        tmp_path,
        """
        value = 0
        while True:
            value += 1
            generation = store.save({"a": np.full(50_000, value, np.float32)})
            os.write(1, b"%d\\n" % generation)
        """,
    )
    first = child.stdout.readline()
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    acknowledged = int((first + child.stdout.read()).split()[-1])
    child.wait()
    with contextlib.closing(StateStore(tmp_path, DIGEST)) as store:
        saved = store.load()
        assert saved.generation >= acknowledged
        assert store.problems == []
        np.testing.assert_array_equal(saved.tensors["a"], np.full(50_000, saved.generation, np.float32))
        assert store.save(arrays(1)) == saved.generation + 1


def run_child(directory, body):
    head = f"""
        import os
        import numpy as np
        from edgessl.device.storage.state import StateStore
        from edgessl.errors import StateError
        store = StateStore({str(directory)!r}, {DIGEST!r})
    """
    program = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
