"""The page and the part of it that changes, as HTML."""

from pathlib import Path
from typing import Any

import jinja2

from edgessl.report.html import TEMPLATES
from federated.dashboard.charts import charts, size
from federated.dashboard.summary import Summary

_HERE = Path(__file__).parent
DEVICES = 200  # in the table; a larger fleet's are counted


def page(name: str) -> str:
    """The frame, with the name of the run; `live.js` fills it."""
    return _render("page.html.j2", name=name, css=(TEMPLATES / "report.css").read_text())


def live(found: Summary) -> str:
    """What is inside the frame."""
    devices = sorted(found.devices.values(), key=lambda d: (-d.failed, d.node))
    last = found.rounds[-1] if found.rounds else {}
    return _render(
        "live.html.j2", found=found, last=last, charts=charts(found), devices=devices, most=DEVICES, size=size
    )


def _render(template: str, **context: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,  # reasons come from devices
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
