"""Energy: counters that wrap, assumptions that are named, CO2 by arithmetic."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edgessl.energy import GRID_G_PER_KWH, EnergyMeter, NvmlCounter, RaplCounter, add_reports
from edgessl.errors import ConfigError


def domain(root: Path, folder: str, name: str, microjoules: int, largest: int = 262_143_328_850) -> Path:
    """A RAPL domain as Linux lays it out."""
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", largest)):
        (path / file).write_text(f"{value}\n")
    return path


def test_a_counter_that_turns_over_loses_nothing(tmp_path: Path) -> None:
    path = domain(tmp_path, "intel-rapl:0", "package-0", 900, largest=999)
    counter = RaplCounter(path)
    assert counter.joules() == 0
    for now, total in ((950, 50), (10, 110), (10, 110), (999, 1099), (0, 1100)):  # the range is 0..999: 1000 values
        (path / "energy_uj").write_text(str(now))
        assert counter.joules() == pytest.approx(total * 1e-6)


def test_packages_and_memory_are_added_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    paths = {
        name: domain(tmp_path, folder, name, 1_000_000)
        for folder, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),  # inside the package
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "psys"),  # around everything
            ("intel-rapl:2", "package-1"),
        )
    }
    meter = EnergyMeter(powercap=tmp_path)
    used = {"package-0": 3_600_000, "core": 2_000_000, "dram": 400_000, "psys": 9_000_000, "package-1": 1_000_000}
    for name, microjoules in used.items():
        (paths[name] / "energy_uj").write_text(str(1_000_000 + microjoules))
    found = meter.report()
    assert found["joules"] == 5.0
    assert found["grade"] == "measured"
    assert found["parts"] == {"cpu": {"joules": 5.0, "how": "RAPL"}}
    assert found["co2_g"] == pytest.approx(5.0 / 3_600_000 * 481)
    assert json.loads(json.dumps(found)) == found


def test_a_domain_kept_for_root_is_an_assumption_and_says_so(tmp_path: Path) -> None:
    path = domain(tmp_path, "intel-rapl:0", "package-0", 5)
    (path / "energy_uj").unlink()
    meter = EnergyMeter(powercap=tmp_path, cpu_watts=7.0, grid_g_per_kwh=50.0)
    before = time.process_time()
    while time.process_time() < before + 0.1:
        pass
    busy = time.process_time() - before
    found = meter.report()
    assert found["grade"] == "estimated"
    assert found["parts"]["cpu"]["how"] == "7 W per busy core assumed"
    assert 7 * busy <= found["joules"] + 1e-3 < 7 * (busy + 0.5)
    assert found["co2_g"] == pytest.approx(found["joules"] / 3.6e6 * 50)
    assert found["grid_source"] == "given"


def test_sleep_costs_nothing_by_the_assumption(tmp_path: Path) -> None:
    meter = EnergyMeter(powercap=tmp_path, cpu_watts=100.0)
    time.sleep(0.2)
    assert meter.report()["joules"] < 10  # 20 J were it wall-clock time


def test_a_gpu_that_cannot_be_read_is_assumed(tmp_path: Path) -> None:
    with pytest.raises((OSError, AttributeError)):
        NvmlCounter("00000000-0000-0000-0000-000000000000")
    meter = EnergyMeter("00000000-0000-0000-0000-000000000000", gpu_watts=200.0, powercap=tmp_path)
    time.sleep(0.05)
    found = meter.report()
    assert found["parts"]["gpu"]["how"] == "200 W while the run lasts assumed"
    assert found["parts"]["gpu"]["joules"] >= 10
    assert found["grade"] == "estimated"


def test_stretches_of_a_run_add_up(tmp_path: Path) -> None:
    path = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    first = EnergyMeter(powercap=tmp_path)
    (path / "energy_uj").write_text("2000000")
    second = EnergyMeter(powercap=tmp_path / "none", grid_g_per_kwh=100.0)
    both = add_reports(first.report(), second.report())
    cpu = second.report()["parts"]["cpu"]["joules"]
    assert both["joules"] == pytest.approx(2.0 + cpu, abs=0.1)
    assert both["grade"] == "estimated"
    assert both["parts"]["cpu"]["how"] == "RAPL; 5 W per busy core assumed"
    assert both["co2_g"] == pytest.approx(both["joules"] / 3.6e6 * 100)
    again = add_reports(both, second.report())
    assert again["parts"]["cpu"]["how"] == both["parts"]["cpu"]["how"]  # named once
    measured = add_reports(first.report(), first.report())
    assert (measured["grade"], measured["joules"]) == ("measured", 4.0)
    assert measured["grid_g_per_kwh"] == GRID_G_PER_KWH


@pytest.mark.parametrize("option", ["cpu_watts", "gpu_watts", "grid_g_per_kwh"])
def test_negative_numbers_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        EnergyMeter(**{option: -1.0})


@pytest.mark.gpu
def test_nvml_counts_on_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    counter = NvmlCounter(str(torch.cuda.get_device_properties(0).uuid))
    before, until = counter.joules(), time.monotonic() + 2
    x = torch.rand(4096, 4096, device="cuda")
    while time.monotonic() < until:
        x @ x
        torch.cuda.synchronize()
    assert 10 < counter.joules() - before < 3000  # two seconds of a busy GPU
