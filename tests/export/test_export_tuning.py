"""Forms chosen by measurement: the choice follows the figures alone, and the bundle keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch import nn

from edgessl.checkpoint import Checkpoint
from edgessl.cli import cli
from edgessl.encoders import Encoder, InputNormalization
from edgessl.errors import ConfigError
from edgessl.objectives import build_objective
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep
from edgessl.views import Pipeline
from export import Graphs, export_bundle
from export.lowerings import Lowerings
from export.lowerings.convolution import FORMS, possible
from export.lowerings.geometry import Convolution
from export.trace import lower_step
from export.tuning import MARGIN, Tuning, choose, time_on_onnxruntime, tune


@pytest.fixture(scope="module")
def step() -> TrainStep:
    """Two convolutions, of which the second has eight times the arithmetic."""
    stages = {
        "conv": nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)),
        "pool": nn.Flatten(),
    }
    encoder = Encoder(stages, (1, 4, 4), InputNormalization([0.0], [1.0], 3))
    return TrainStep(encoder, build_objective("vicreg"), build_optimizer("sgd"), Pipeline((), (1, 4, 4)))


def last_is_fastest(family: str, sizes: Convolution, forms: Sequence[str], threads: int) -> dict[str, float]:
    return {form: float(len(forms) - i) for i, form in enumerate(forms)}


@pytest.mark.parametrize(
    ("times", "form"),
    [
        ({"rule": 1.0, "other": 0.5}, "other"),
        ({"rule": 1.0, "other": 1 - MARGIN / 2}, "rule"),  # noise
        ({"rule": 1.0, "b": 0.5, "a": 0.5}, "a"),  # equal figures: by name, not by order
        ({"rule": 1.0, "other": 2.0}, "rule"),
        ({"rule": 1.0}, "rule"),
    ],
)
def test_the_choice_follows_the_figures(times: dict[str, float], form: str) -> None:
    assert choose(times) == form


def test_every_open_site_is_measured_and_its_form_taken(step: TrainStep) -> None:
    told: list[tuple[int, int]] = []
    asked: list[int] = []

    def fake(family: str, sizes: Convolution, forms: Sequence[str], threads: int) -> dict[str, float]:
        asked.append(sizes.c_in * sizes.c_out)
        assert list(forms) == possible(family, sizes)
        assert threads == 3
        return last_is_fastest(family, sizes, forms, threads)

    tuning = tune(step, 4, threads=3, time_forms=fake, progress=lambda done, total, site: told.append((done, total)))
    assert len(tuning.ms) == tuning.open_sites == len(asked) > 2
    assert asked == sorted(asked, reverse=True)  # most arithmetic first
    assert told == [(i, len(asked)) for i in range(len(asked) + 1)]
    ruled, chosen = Lowerings(), Lowerings(measured=tuning.forms)
    for lowerings in (ruled, chosen):
        lower_step(step, (4, 1, 4, 4), lowerings)
    for site, form in tuning.forms.items():
        assert form == list(tuning.ms[site])[-1] == chosen.choices.taken[site]
        assert form != ruled.choices.taken[site] == next(iter(tuning.ms[site]))
    assert tune(step, 4, threads=3, time_forms=last_is_fastest) == tuning


def test_what_the_time_is_not_enough_for_is_left_to_the_rules(step: TrainStep) -> None:
    now = iter(float(second) for second in range(100))
    tuning = tune(step, 4, seconds=2.5, time_forms=last_is_fastest, clock=lambda: next(now))
    assert len(tuning.ms) == 2 < tuning.open_sites  # begun at 1 s and at 2 s; the third would have been at 3 s
    with pytest.raises(ConfigError, match="threads >= 1 and seconds > 0, found 0 and 60"):
        tune(step, 4, threads=0)


def test_forms_run_alone_on_onnxruntime() -> None:
    sizes = Convolution(2, 8, 8, (6, 6), (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), 8)
    for family in FORMS:
        forms = possible(family, sizes)
        times = time_on_onnxruntime(family, sizes, forms, threads=1)
        assert list(times) == forms
        assert all(ms > 0 for ms in times.values())


def test_the_bundle_keeps_the_figures_and_inspect_shows_them(
    checkpoint: Checkpoint, graphs: Graphs, tmp_path: Path
) -> None:
    site, form = next(iter(graphs.forms.items()))
    tuning = Tuning(2, {site: {form: 1.23456, "other": 2.0}}, 5)
    path = tmp_path / "tuned.edgessl"
    bundle = export_bundle(checkpoint, path, calibration=None, graphs=replace(graphs, tuning=tuning))
    kept: Any = bundle.manifest.provenance["step"]
    assert kept["tuning"] == {"threads": 2, "open_sites": 5, "ms": {site: {form: 1.2346, "other": 2.0}}}
    assert kept["forms"] == graphs.forms
    said = CliRunner().invoke(cli, ["inspect", str(path)], prog_name="edgessl").output
    table = said[said.index("convolution of the step") : said.index("member ")]
    sizes = {site.split(" ", 1)[1] for site in graphs.forms}
    assert all(any(line.startswith(size) for line in table.splitlines()) for size in sizes)
    assert f"{form} 1.23 ms" in table
    assert "step.tuning.threads 2" in said
    assert "step.forms" not in said
