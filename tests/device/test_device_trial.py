"""Generations on trial, and state that only a holder of the device key can have written."""

import contextlib
import os
import stat

import numpy as np
import pytest

from edgessl.device.storage.devicekey import create_key, read_key
from edgessl.device.storage.state import StateStore
from edgessl.errors import StateError

DIGEST = "ab" * 32
KEY, OTHER = bytes(range(32)), bytes(32)


@contextlib.contextmanager
def opened(path, key=None):
    with contextlib.closing(StateStore(path, DIGEST, key)) as store:
        yield store


def save(store, value, **options):
    return store.save({"a": np.full(10, value, np.float32)}, **options)


def value(saved):
    return None if saved is None else float(saved.tensors["a"][0])


def test_a_trial_has_one_open_and_is_then_reverted(tmp_path):
    with opened(tmp_path) as store:
        save(store, 1)
        save(store, 2)
        save(store, 3, trial=True)
        save(store, 4)  # stays on trial until it is marked good
        assert value(store.load()) == 4
    with opened(tmp_path) as store:
        assert value(store.load()) == 4
        assert store.load().on_trial
        save(store, 5)
    with opened(tmp_path) as store:
        assert value(store.load()) == 2
        assert "generation 5 was never marked good; back to the last good generation" in store.problems[0]
        assert save(store, 6) == 6
    with opened(tmp_path) as store:
        assert (value(store.load()), store.problems) == (6, [])


def test_a_trial_that_crashes_before_it_saves_is_reverted(tmp_path):
    with opened(tmp_path) as store:
        save(store, 1)
        save(store, 2, trial=True)
    with opened(tmp_path) as store:
        assert value(store.load()) == 2
    with opened(tmp_path) as store:
        assert value(store.load()) == 1


def test_a_trial_marked_good_stays(tmp_path):
    with opened(tmp_path) as store:
        save(store, 1)
        save(store, 2, trial=True)
    with opened(tmp_path) as store:
        store.load()
        assert store.mark_good() == 3
        assert store.mark_good() == 3
    for _ in range(3):
        with opened(tmp_path) as store:
            assert (value(store.load()), store.problems) == (2, [])
            assert not store.load().on_trial


def test_a_trial_without_a_good_generation_goes_back_to_the_factory(tmp_path):
    with opened(tmp_path) as store:
        save(store, 1, trial=True)
    with opened(tmp_path) as store:
        assert value(store.load()) == 1
    with opened(tmp_path) as store:
        assert store.load() is None
        assert "back to the factory state" in store.problems[0]
        assert save(store, 2) == 2


def test_harm_on_trial_returns_to_the_good_generation_and_ends_the_trial(tmp_path):
    with opened(tmp_path) as store:
        save(store, 1)
        save(store, 2, trial=True)
        assert value(store.back()) == 1
        assert value(store.load()) == 1
    with opened(tmp_path) as store:  # killed before anything else was saved
        assert value(store.load()) == 1
        assert save(store, 3) == 3
    with opened(tmp_path) as store:
        assert value(store.load()) == 3


@pytest.mark.parametrize("damaged", [0, 1])
def test_the_good_slot_outlives_any_number_of_trials(tmp_path, damaged):
    with opened(tmp_path) as store:
        save(store, 1)
        for i in range(5):
            save(store, 2 + i, trial=True)
    slots = ["state.0", "state.1"]  # the good one, the one on trial
    (tmp_path / slots[damaged]).write_bytes(b"junk")
    with opened(tmp_path) as store:
        assert value(store.load()) == (6 if damaged == 0 else 1)


def test_the_key_authenticates(tmp_path):
    with opened(tmp_path, KEY) as store:
        save(store, 1)
    with opened(tmp_path, KEY) as store:
        assert value(store.load()) == 1
    for key, says in ((OTHER, "this device key was given, .* another one"), (None, "no device key was given")):
        with pytest.raises(StateError, match=says):
            StateStore(tmp_path, DIGEST, key)
    data = bytearray((tmp_path / "state.0").read_bytes())
    data[-1] ^= 1
    (tmp_path / "state.0").write_bytes(data)
    with pytest.raises(StateError, match="authentication failed: damaged or forged"):
        StateStore(tmp_path, DIGEST, KEY)


def test_a_state_without_a_key_is_refused_where_one_is_expected(tmp_path):
    """Else a forger would leave the key out; nor does a forged key number help."""
    from edgessl.device.storage.state import HEADER, key_number

    with opened(tmp_path) as store:
        save(store, 1)
    with pytest.raises(StateError, match="this device key was given, and the state is not authenticated with any"):
        StateStore(tmp_path, DIGEST, KEY)
    path = tmp_path / "state.0"
    fields = list(HEADER.unpack(path.read_bytes()[: HEADER.size]))
    fields[2] = key_number(KEY)
    path.write_bytes(HEADER.pack(*fields) + path.read_bytes()[HEADER.size :])
    with pytest.raises(StateError, match="authentication failed"):
        StateStore(tmp_path, DIGEST, KEY)


def test_the_tag_is_the_hmac_of_the_standard_library(tmp_path):
    import hmac

    with opened(tmp_path, KEY) as store:
        save(store, 1)
    data = (tmp_path / "state.0").read_bytes()
    assert data[64:96] == hmac.new(KEY, data[:64] + data[96:], "sha256").digest()
    assert int.from_bytes(data[12:16], "little") & 1


def test_key_files(tmp_path):
    create_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    key = read_key(tmp_path / "key")
    assert (len(key), read_key(key), read_key(lambda: key)) == (32, key, key)
    with pytest.raises(StateError, match="File exists"):
        create_key(tmp_path / "key")
    os.chmod(tmp_path / "key", 0o640)
    with pytest.raises(StateError, match="others may read it; run chmod 600"):
        read_key(tmp_path / "key")
    with pytest.raises(StateError, match="No such file"):
        read_key(tmp_path / "none")
    with pytest.raises(StateError, match="at least 16 are needed"):
        StateStore(tmp_path / "state", DIGEST, b"short")
