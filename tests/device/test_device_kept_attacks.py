"""Inputs that once got further than they should have (see attacks/README.md), read again by what reads such files."""

from pathlib import Path

import pytest

from edgessl.device import SessionProfile
from edgessl.device.bundle.onnxwire import check_graph
from edgessl.errors import EdgeSSLError

ATTACKS = Path(__file__).parent / "attacks"


def graph(data: bytes) -> None:
    check_graph(data, "graph")
    SessionProfile().session(data, "graph")


READERS = {"session-name-not-utf8.onnx": graph}


def test_every_kept_file_has_a_reader_and_a_row() -> None:
    kept = {path.name for path in ATTACKS.iterdir()} - {"README.md"}
    assert kept == set(READERS)
    told = (ATTACKS / "README.md").read_text()
    assert all(f"`{name}`" in told for name in kept)


@pytest.mark.parametrize("name", READERS)
def test_kept_attacks_are_refused_and_nothing_is_printed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EdgeSSLError):
        READERS[name]((ATTACKS / name).read_bytes())
    assert capfd.readouterr() == ("", "")
