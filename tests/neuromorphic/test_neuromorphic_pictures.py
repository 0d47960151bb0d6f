"""Pictures say in words what they show, the page holds them, and both commands run from a network file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from edgessl.cli import cli
from edgessl.errors import InputError
from neuromorphic import pictures
from neuromorphic.energy import Ledger
from neuromorphic.local import predictive_coding
from neuromorphic.network_file import save_network
from neuromorphic.prices import price, table
from neuromorphic.simulator import Simulator

Array = np.ndarray[Any, np.dtype[Any]]


def spikes(count: int = 2, steps: int = 12) -> Array:
    return (np.random.default_rng(0).random((count, steps, 18)) < 0.3).astype(np.int8)


def drawn(svg: str) -> str:
    """Its description; an `<svg>` that parses and has only colors of the page."""
    ElementTree.fromstring(svg)
    assert not re.findall(r"#0[1-7]02[0-9a-f]{2}", svg)
    return re.search(r'aria-label="([^"]*)"', svg)[1]  # type: ignore[index]


def test_pictures_describe_what_they_show() -> None:
    x = spikes()[0]
    signed = x[:, :4] * np.where(np.arange(4) % 2, -1, 1)
    assert f"in {int(x.sum())} spikes; error {np.count_nonzero(signed)} spikes" in drawn(
        pictures.raster({"in": x, "error": signed})
    )
    assert "Voltages of 2 neurons; they fire" in drawn(pictures.membranes(x * 50, x, 64, [0, 3]))
    assert "from 4 to 2" in drawn(pictures.prediction_error({"e": np.r_[np.full(100, 4), np.full(100, 2)]}))
    fields = pictures.receptive_fields(np.random.default_rng(0).normal(size=(40, 18)), (3, 3), channels=2)
    assert drawn(fields) == "Receptive fields of 32 neurons of 40."
    rows = [
        price(Ledger(name, 1, 1, {"spike": n, "synaptic_operation": 10 * n}), table("loihi1-2018-presilicon"))
        for name, n in (("spiking", 10), ("other", 30))
    ]
    assert "spiking 2.38e-09 J; other 7.13e-09 J" in drawn(pictures.energy_breakdown(rows))
    with pytest.raises(InputError, match=r"expected \(n, 1 \* 3 \* 3\), found \(4, 8\)"):
        pictures.receptive_fields(np.zeros((4, 8)), (3, 3))
    with pytest.raises(InputError, match="no population"):
        pictures.raster({})


def test_error_magnitude_is_the_error_units_own() -> None:
    network = predictive_coding(18, 6, vth=900)
    record = Simulator(network, batch=2).run({"input": spikes()}, u=True, v=True)
    sent = np.abs(record.spikes["error"].astype(np.int64))
    magnitude = pictures.error_magnitude(network, record, "error")
    np.testing.assert_allclose(magnitude[:3], sent[:, :3].mean((0, 2)))  # not clipped yet
    with pytest.raises(InputError, match="'hidden' is of kind 'lif'"):
        pictures.error_magnitude(network, record, "hidden")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("neuro")
    network = save_network(predictive_coding(18, 6, vth=900), folder / "pc.network")
    np.savez(folder / "spikes.npz", input=spikes(3))
    return network, folder / "spikes.npz"


def test_the_report_command_writes_one_page_and_its_figures(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    command = ["neuro", "report", *map(str, files), "--field", "3,3", "--out", str(out), "--engine", "numpy", "--json"]
    found = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    page = out.read_text()
    assert page.count("<svg") == 5  # raster, membranes, error, fields, energy
    assert "script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    data = json.loads(out.with_suffix(".json").read_text())
    assert data["samples"] == 3
    assert (
        data["neurobench"]["SynapticOperations"]["Dense"]
        == sum(a * b for a, b in (c["shape"] for c in data["network"]["connections"].values())) * data["steps"]
    )
    assert [row["joules_per_sample"] is None for row in data["energy"]] == [False, False, False]
    command.remove("--field")
    command.remove("3,3")
    again = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert out.read_text().count("<svg") == 4  # no fields of an input that is no image


def test_the_energy_command_counts_prices_and_refuses(files: tuple[Path, Path]) -> None:
    runner = CliRunner()
    found = runner.invoke(
        cli, ["neuro", "energy", *map(str, files), "--engine", "numpy", "--json"], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    rows = {(row["subject"], row["table"]): row for row in data["priced"]}
    chip = rows["spiking", "loihi1-2018-presilicon"]
    counts = data["ledgers"][0]["counts"]
    pico = {"synaptic_operation": 23.6, "driven_update": 81, "idle_update": 52, "spike": 1.7, "weight_update": 120}
    expected = sum(counts.get(term, 0) * value for term, value in pico.items()) * 1e-12 / 3
    assert chip["joules_per_sample"] == pytest.approx(expected)
    assert chip["left_out"] == ["host_write", "host_read"]
    assert rows["spiking", "horowitz-45nm-int8"]["unknown"] == ["weight_update"]
    assert rows["spiking", "horowitz-45nm-int8"]["joules_per_sample"] is None
    assert rows["dense int8 twin", "horowitz-45nm-int8"]["joules_per_sample"] > 0
    shown = runner.invoke(cli, ["neuro", "energy", *map(str, files), "--engine", "numpy"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "refused" in shown.stdout
    assert "Loihi 2 energy" not in shown.stdout
