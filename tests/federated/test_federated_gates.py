"""Gates: each against files, clocks and programs of the test's own."""

from __future__ import annotations

import sys
from datetime import datetime

import pytest

from edgessl.errors import ConfigError
from federated.node import Battery, Command, Interfaces, TimeWindow

HEADER = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"


def at(hour, minute):
    return lambda: datetime(2026, 11, 27, hour, minute)


@pytest.mark.parametrize("text", ["22:00-06:30", " 22:00 - 06:30 "])
def test_a_window_over_midnight_is_open_for_the_minutes_within(text):
    window = TimeWindow.parse(text)
    every = [TimeWindow(window.start, window.end, at(m // 60, m % 60))() is None for m in range(24 * 60)]
    assert every == [m >= 22 * 60 or m < 6 * 60 + 30 for m in range(24 * 60)]


def test_a_window_within_a_day_says_when_it_is():
    window = TimeWindow.parse("09:05-17:00")
    assert TimeWindow(window.start, window.end, at(9, 5))() is None
    assert TimeWindow(window.start, window.end, at(17, 0))() == "17:00 is outside 09:05-17:00"


@pytest.mark.parametrize(
    "text", ["", "9-17", "09:00", "24:00-06:00", "09:00-09:00", "09:00-10:00-11:00", "09:60-10:00"]
)
def test_no_window_is_an_error(text):
    with pytest.raises(ConfigError, match="HH:MM-HH:MM"):
        TimeWindow.parse(text)


@pytest.fixture
def supplies(tmp_path):
    def write(**each):
        for name, files in each.items():
            (tmp_path / name).mkdir()
            for file, text in files.items():
                (tmp_path / name / file).write_text(f"{text}\n")
        return Battery(50, tmp_path)

    return write


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        ({}, None),
        ({"BAT0": {"type": "Battery", "capacity": 49}}, "battery at 49 %, below 50 %"),
        ({"BAT0": {"type": "Battery", "capacity": 50}}, None),
        ({"BAT0": {"type": "Battery", "capacity": 90}, "BAT1": {"type": "Battery", "capacity": 3}}, "battery at 3 %"),
        ({"BAT0": {"type": "Battery", "capacity": 5}, "AC": {"type": "Mains", "online": 1}}, None),
        ({"BAT0": {"type": "Battery", "capacity": 5}, "AC": {"type": "Mains", "online": 0}}, "battery at 5 %"),
        ({"mouse": {"type": "Battery", "scope": "Device", "capacity": 1}}, None),
    ],
)
def test_battery_and_mains(supplies, each, reason):
    found = supplies(**each)()
    assert (found is None) if reason is None else found.startswith(reason)


def route(name, metric, destination="00000000", flags="0003", mask="00000000"):
    return f"{name}\t{destination}\t0100A8C0\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("", None),
        (route("wlan0", 600) + route("wwan0", 700), None),
        (route("wlan0", 900) + route("wwan0", 700), "the default route is wwan0, which matches wwan*"),
        (route("wwan0", 700, flags="0002") + route("eth0", 900), None),
        (route("wwan0", 1, destination="0000A8C0", mask="00FFFFFF") + route("eth0", 900), None),
        (route("ppp0", 0), "the default route is ppp0, which matches ppp*"),
    ],
)
def test_the_interface_of_the_default_route_counts(tmp_path, lines, reason):
    (tmp_path / "route").write_text(HEADER + lines)
    assert Interfaces(routes=tmp_path / "route")() == reason


def test_a_program_decides():
    assert Command((sys.executable, "-c", ""))() is None
    assert Command((sys.executable, "-c", "print('on a boat'); raise SystemExit(1)"))() == "on a boat"
    assert Command((sys.executable, "-c", "raise SystemExit(3)"))() == f"{sys.executable} exited with 3"
    assert "No such file" in Command(("/no/such/program",))()
    assert "timed out" in Command((sys.executable, "-c", "import time; time.sleep(60)"), seconds=0.3)()
