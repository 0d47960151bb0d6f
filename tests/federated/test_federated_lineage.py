"""The round log: every line follows the one before, whatever happens to the file."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgessl.errors import FederationError
from federated.checkpoint import Head, ServerStore, unspent
from federated.lineage import RoundLog, Version
from federated.message import version_of


@pytest.fixture
def path(tmp_path):
    log = RoundLog(tmp_path / "lineage.jsonl")
    for number in range(4):
        log.append("round", number=number, loss=0.5 / (number + 1), failures={"101": 'said "no"\n'})
    return log.path


def test_what_was_appended_is_read_back(path):
    again = RoundLog(path)
    assert [event["number"] for event in again.events()] == [0, 1, 2, 3]
    assert list(again.events())[3]["failures"] == {"101": 'said "no"\n'}
    again.append("end")
    assert len(again) == len(RoundLog(path)) == 5
    assert list(RoundLog(path).events())[-1]["event"] == "end"
    assert path.read_text().count("\n") == 5


def test_a_line_is_only_ever_added(path):
    before = path.read_bytes()
    RoundLog(path).append("more")
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [lines[0], lines[1].replace('"number":1', '"number":9'), *lines[2:]],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:2], lines[1], *lines[2:]],
        lambda lines: ["", *lines],
        lambda lines: [*lines[:2], "{}", *lines[2:]],
        lambda lines: [*lines[:2], "[1]", *lines[2:]],
        lambda lines: [*lines[:2], lines[2][:-1] + ',"number":5}', lines[3]],
    ],
    ids=["changed", "lost", "swapped", "twice", "empty", "no event", "no object", "a key twice"],
)
def test_a_line_changed_lost_or_put_in_is_found(path, damage):
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(FederationError, match=r"lineage.jsonl: line [123] "):
        RoundLog(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.data())
def test_a_power_loss_while_writing_leaves_what_was_before(path, data):
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    torn = path.with_name("torn.jsonl")
    torn.write_bytes(whole[:cut])
    log = RoundLog(torn)
    assert len(log) == whole[:cut].count(b"\n")
    assert torn.read_bytes() == whole[:cut]  # who only reads changes nothing
    log.append("again")
    assert torn.read_bytes().startswith(whole[: whole[:cut].rfind(b"\n") + 1] + b'{"event":"again"')
    assert list(RoundLog(torn).events())[-1]["event"] == "again"


def test_a_damaged_head_says_so_and_another_version_takes_its_place(tmp_path):
    store = ServerStore(tmp_path, "00" * 32)
    for last in (1, 2):
        theta = np.full(5, last, np.float32)
        version = Version("run", last, 0, version_of(theta), "", "")
        store.write(Head(version, theta, last, states={"strategy": {"m": np.arange(3.0), "t": 7}}))
    head = tmp_path / "head.safetensors"
    data = bytearray(head.read_bytes())
    data[data.index(theta.tobytes())] ^= 1
    head.unlink()  # the file of the version stays whole: only the link was damaged
    head.write_bytes(data)
    with pytest.raises(FederationError, match=r"head.safetensors: damaged: its checksum is wrong; link another"):
        store.load()
    head.unlink()
    head.hardlink_to(tmp_path / "versions" / "000002.safetensors")
    found = store.load()
    store.close()
    np.testing.assert_array_equal(found.theta, theta)
    assert (found.last, found.states["strategy"]["t"]) == (2, 7)
    np.testing.assert_array_equal(found.states["strategy"]["m"], [0, 1, 2])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.safetensors", "lock", "versions"]


def test_what_was_spent_is_not_given_back():
    then, now = {"m": 1, "spent.epsilon": 2.0, "spent.old": 1}, {"m": 5, "spent.epsilon": 7.5}
    assert unspent(then, now) == {"m": 1, "spent.epsilon": 7.5}


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(FederationError, match="cannot be written"):
        RoundLog(tmp_path / "no" / "lineage.jsonl").append("start")
    (tmp_path / "file").write_text("")
    with pytest.raises(FederationError, match="cannot be made"):
        ServerStore(tmp_path / "file", "00" * 32)


def test_numbers_that_are_not_finite_never_enter(path):
    path.write_text(path.read_text() + json.dumps({"event": "x", "loss": float("nan"), "previous": ""}) + "\n")
    with pytest.raises(FederationError, match="line 5 is no line of a round log"):
        RoundLog(path)
