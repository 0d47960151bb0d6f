"""The round log: every line follows the one before, whatever happens to the file."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgessl.errors import FederationError
from federated.checkpoint import ServerStore
from federated.lineage import RoundLog


@pytest.fixture
def path(tmp_path):
    log = RoundLog(tmp_path / "lineage.jsonl")
    for number in range(4):
        log.append("round", number=number, loss=0.5 / (number + 1), failures={"101": 'said "no"\n'})
    return log.path


def test_what_was_appended_is_read_back(path):
    again = RoundLog(path)
    assert [event["number"] for event in again.events] == [0, 1, 2, 3]
    assert again.events[3]["failures"] == {"101": 'said "no"\n'}
    again.append("end")
    assert RoundLog(path).events[-1]["event"] == "end"
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
    assert len(log.events) == whole[:cut].count(b"\n")
    assert torn.read_bytes() == whole[: whole[:cut].rfind(b"\n") + 1]
    log.append("again")
    assert RoundLog(torn).events[-1]["event"] == "again"


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
