from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgessl.errors import InputError, MissingDependencyError
from edgessl.report import demo_report
from edgessl.report.html import duration, figure, flat, points, render, size

VOID = {"meta", "img", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Tags and attributes in order; `open` ends empty when every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def written(data: dict[str, Any], folder: Path) -> str:
    demo_report(data, folder / "report.html")
    assert [f.name for f in folder.iterdir()] == ["report.html"]
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_full_page_is_well_formed_and_self_contained(full_page: str) -> None:
    text, page = full_page, Page(full_page)
    assert page.open == []
    assert not page.named("script")
    assert not page.named("link")
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href"):
            address = attributes.get(key) or "#"
            assert address.startswith(("#", "data:image/png;base64,"))
        assert not any(key.startswith("on") for key in attributes)
    assert "@import" not in text
    assert all(reference.startswith("#") for reference in re.findall(r"url\(([^)]*)\)", text))


def test_ids_are_unique_and_references_resolve(full_page: str) -> None:
    text = full_page
    ids = [a["id"] for _, a in Page(text).tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text))
    assert {a or b for a, b in used} <= set(ids)


def test_pictures_and_tables_can_be_read_without_seeing_them(full_page: str) -> None:
    page = Page(full_page)
    assert len(page.named("img")) == 20
    assert all(image["alt"] for image in page.named("img"))
    plots = [a for a in page.named("svg") if a.get("role") == "img"]
    assert len(plots) == 3 + 3 + 1
    assert "Pretrained, int8 91.3 ± 0.4 %" in (plots[0]["aria-label"] or "")
    assert all(plot["aria-label"] for plot in plots)
    assert all("scope" in header for header in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table")) == 6
    assert page.named("html") == [{"lang": "en"}]


def test_colors_come_from_the_page(full_page: str) -> None:
    text = full_page
    plots = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", plots)
    defined = set(re.findall(r"(--[a-z0-9-]+):", text))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", text)) <= defined
    assert "font-family" not in plots


def test_the_figures_are_on_the_page(full_page: str) -> None:
    text = Page(full_page).text
    for expected in ("+30.4", "−0.2", "+12.3", "61.2  59.8  62.1", "2 min 47 s", "787.9 kB", "int8.knn_agreement"):
        assert expected in text
    assert "edgessl demo --seeds 3 --out runs/demo" in text


def test_optional_parts_are_optional(required: dict[str, Any], tmp_path: Path) -> None:
    required["seconds"] = 12.0
    page = Page(written(required, tmp_path))
    assert page.open == []
    assert "12.0 s" in page.text
    for absent in ("What was done", "The bundle", "Training", "Versions", "principal components"):
        assert absent not in page.text


def test_text_is_escaped(full: dict[str, Any], tmp_path: Path) -> None:
    full["protocol"] = {"<script>alert(1)</script>": "a & b"}
    full["machine"]["cpu"] = '"><img src=x>'
    page = Page(written(full, tmp_path))
    assert not page.named("script")
    assert all(image.get("src") != "x" for image in page.named("img"))
    assert "<script>alert(1)</script>" in page.text


def test_the_same_data_gives_the_same_bytes(full: dict[str, Any], full_page: str, tmp_path: Path) -> None:
    assert written(full, tmp_path) == full_page


def test_a_failure_leaves_the_old_report(full: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old report")
    full["samples"]["after"] = [[0.0, 1.0]]
    with pytest.raises(InputError, match=r"samples\.after\[0\]"):
        demo_report(full, path)
    assert path.read_text() == "the old report"


def test_without_jinja2_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"jinja2.*edgessl\[train\]"):
        render("demo.html.j2", {})


def test_importing_the_report_loads_no_plotting() -> None:
    code = (
        "import sys, edgessl.report; print([m for m in ('matplotlib', 'jinja2', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (points(0.0123), "+1.2"),
        (points(-0.0123), "−1.2"),
        (points(-0.0001), "±0.0"),
        (size(182_400), "182.4 kB"),
        (size(1_250_000), "1.2 MB"),
        (duration(3.21), "3.2 s"),
        (duration(166.9), "2 min 47 s"),
        (duration(119.9), "2 min 0 s"),
        (figure(3.14e-7), "3.1e-07"),
        (figure(-3.14e-7), "-3.1e-07"),
        (figure(0.98123), "0.9812"),
        (figure(0.0), "0"),
        (figure(12345), "12,345"),
        (figure(True), "True"),
        (figure([3.14e-7, 2]), "3.1e-07, 2"),
    ],
)
def test_numbers_as_people_write_them(shown: str, expected: str) -> None:
    assert shown == expected


def test_nested_figures_get_dotted_names() -> None:
    assert list(flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3})) == [("a.b", 1), ("a.c.d", 2), ("e", 3)]
