"""What a node keeps on its disk."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.errors import StateError
from federated.compat import fleet
from federated.node import Letters


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.text("abcdef0123456789", min_size=64, max_size=64), st.binary(max_size=300), max_size=5),
    st.floats(0, 1e12),
)
def test_letters_give_back_what_they_were_given(tmp_path_factory, parts, expires):
    letters = Letters(tmp_path_factory.mktemp("letters"))
    letters.keep_message("f" * 64, parts, expires)
    assert letters.message() == ("f" * 64, parts, expires)
    reply = fleet.Packed(2**63, "e" * 64, expires, b"head", b"tree", parts)
    letters.keep_reply(reply, 1.5)
    assert letters.message() is None
    again = Letters(letters.folder)
    assert again.reply() == (reply, 1.5)
    assert again.answered("e" * 64)
    again.drop_reply()
    assert again.reply() is None


@pytest.mark.parametrize("name", ["message", "reply", "answered.json", "number.json"])
def test_a_damaged_letter_is_set_aside(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff" * 40)
    letters = Letters(tmp_path)
    assert letters.number("s:1") is None
    assert letters.message() is None
    assert letters.reply() is None
    assert "set aside" in letters.problems[0]
    assert (tmp_path / f"{name}.damaged").exists()


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="nothing that was kept before is lost"):
        Letters(tmp_path / "file")
