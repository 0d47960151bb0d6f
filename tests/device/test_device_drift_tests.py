"""Scalar change detectors against river 0.23.0 and frouros 0.9.0, run once on these very series."""

import numpy as np
import pytest

from edgessl.device.drift.tests import Adwin, Cusum, PageHinkley
from edgessl.errors import ConfigError


def series(name):
    r = np.random.default_rng(["jump", "bernoulli", "ramp", "still", "back"].index(name))
    if name == "jump":
        return np.concatenate([r.normal(0.3, 0.05, 1000), r.normal(0.5, 0.05, 1000)])
    if name == "bernoulli":
        return np.concatenate([r.random(1500) < 0.2, r.random(1500) < 0.35]).astype(float)
    if name == "ramp":
        return np.clip(np.linspace(0.2, 0.8, 3000) + r.normal(0, 0.1, 3000), 0, 1)
    if name == "still":
        return r.random(3000)
    return np.concatenate([r.normal(m, 0.1, 700) for m in (0.3, 0.6, 0.3, 0.6)])


# river.drift.ADWIN(delta=0.002, clock=...), which starts an empty window after each alarm
RIVER_ADWIN = {
    ("jump", 1): [1043],
    ("jump", 32): [1055],
    ("bernoulli", 1): [1620],
    ("bernoulli", 32): [1631],
    ("ramp", 1): [693, 1448, 2108, 2755],
    ("ramp", 32): [703, 1471, 2143, 2815],
    ("still", 1): [],
    ("still", 32): [],
    ("back", 1): [734, 1437, 2135],
    ("back", 32): [735, 1439, 2143],
}
# river.drift.PageHinkley(min_instances=30, delta=0.005, threshold=5.0, alpha=0.9999)
RIVER_PAGE_HINKLEY = {
    "jump": [1025],
    "ramp": [388, 687, 975, 1329, 1632, 1963, 2342, 2674],
    "still": [431, 654, 1094, 1414, 1677, 1783, 1836, 1971, 2378, 2761, 2828],
    "back": [715, 1417, 2115],
}


@pytest.mark.parametrize(("name", "clock"), RIVER_ADWIN)
def test_adwin_alarms_when_river_does(name, clock):
    test, alarms = Adwin(0.002, clock), []
    for i, value in enumerate(series(name)):
        if test.update(float(value)):
            alarms.append(i)
            test = Adwin(0.002, clock)
    assert alarms == RIVER_ADWIN[name, clock]


@pytest.mark.parametrize("name", RIVER_PAGE_HINKLEY)
def test_page_hinkley_alarms_when_river_does(name):
    test = PageHinkley(threshold=5.0)
    assert [i for i, v in enumerate(series(name)) if test.update(v)] == RIVER_PAGE_HINKLEY[name]


def test_adwin_window_is_the_one_of_frouros_and_its_mean_exact():
    """frouros.detectors.concept_drift.ADWIN(clock=32, delta=0.002, m=5) ends with 1040 values, as the paper cuts."""
    values, test = series("jump"), Adwin()
    for value in values:
        test.update(float(value))
    assert test.width == 1040
    assert test.mean == pytest.approx(values[-1040:].mean())


def test_adwin_keeps_everything_while_nothing_changes():
    test = Adwin(clock=1)
    values = np.random.default_rng(0).random(5000)
    assert not any([test.update(float(v)) for v in values])
    assert test.width == 5000
    assert test.mean == pytest.approx(values.mean())
    assert len(test.tensors()["buckets"]) <= Adwin.ROW * 12
    with pytest.raises(ConfigError, match="delta"):
        Adwin(delta=0.0)


def test_adwin_forgets_the_oldest_when_every_bucket_is_taken(monkeypatch):
    monkeypatch.setattr(Adwin, "LEVELS", 3)
    test = Adwin()
    for _ in range(200):
        test.update(0.5)
    assert test.width <= 5 * (1 + 2 + 4)
    assert test.mean == pytest.approx(0.5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("shift", "low", "high"), [(1.0, 20, 32), (2.0, 7, 11), (4.0, 3, 5)])
def test_cusum_delay(sign, shift, low, high):
    """About threshold / (shift - tolerance) samples, the mean path to the threshold."""
    delays = []
    for seed in range(200):
        test, values = Cusum(), sign * (np.random.default_rng(seed).normal(size=500) + shift)
        delays.append(next(i + 1 for i, v in enumerate(values) if test.update(v)))
    assert low <= np.mean(delays) <= high


@pytest.mark.parametrize("width", [4, 20])
def test_cusum_false_alarms(width):
    test = Cusum(width)
    values = np.random.default_rng(0).normal(size=(40_000 // width, width))
    assert sum(test.update(v) for v in values) == 0


def test_one_outlier_is_no_drift():
    test = Cusum()
    for _ in range(10):
        assert not test.update(1e9)
        assert not any(test.update(0.0) for _ in range(30))


@pytest.mark.parametrize("make", [Cusum, Adwin, lambda: PageHinkley(threshold=3.0)])
def test_state_roundtrip(make):
    straight, resumed = make(), make()
    found = []
    for i, value in enumerate(4 * series("back")):
        fresh = make()
        if i % 50 == 0:
            fresh.restore({k: v.copy() for k, v in resumed.tensors().items()})
            resumed = fresh
        found.append(straight.update(float(value)))
        assert found[-1] == resumed.update(float(value))
    assert any(found)
