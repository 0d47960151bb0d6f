"""The page of objectives names what there is, with the figures of the code."""

from __future__ import annotations

import re
from pathlib import Path

from edgessl.objectives import OBJECTIVES

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"


def test_the_page_lists_every_objective_with_its_facts() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [name for name, _, _ in rows] == list(OBJECTIVES)
    for name, least, hyper in rows:
        cls = OBJECTIVES[name]
        assert int(least) == cls.min_batch, name
        assert hyper == (", ".join(f"{key} {value:g}" for key, value in cls.hyper.items()) or "–"), name
