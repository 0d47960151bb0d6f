import numpy as np
import pytest

from edgessl.device.drift import DriftMonitor, PageHinkley


def embeddings(n, seed, centre=0.0, dim=16):
    z = np.random.default_rng(seed).normal(size=(n, dim)) + centre
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def first_alarm(test, values):
    return next((i + 1 for i, v in enumerate(values) if test.update(v)), None)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("shift", "low", "high"), [(1.0, 20, 32), (2.0, 7, 11), (4.0, 3, 5)])
def test_page_hinkley_delay(sign, shift, low, high):
    """About threshold / (shift - tolerance) samples, the mean path to the threshold."""
    delays = [
        first_alarm(PageHinkley(), sign * (np.random.default_rng(s).normal(size=500) + shift)) for s in range(200)
    ]
    assert low <= np.mean(delays) <= high


def test_page_hinkley_false_alarms():
    test = PageHinkley()
    assert sum(test.update(v) for v in np.random.default_rng(0).normal(size=100_000)) == 0


def test_one_outlier_is_no_drift():
    test = PageHinkley()
    for _ in range(10):
        assert not test.update(1e9)
        assert not any(test.update(0.0) for _ in range(30))


@pytest.mark.parametrize("seed", range(5))
def test_monitor_sees_a_change_soon_and_only_then(seed):
    monitor = DriftMonitor(16)
    assert not monitor.update(embeddings(3000, seed))
    assert monitor.update(embeddings(60, seed + 50, centre=0.8))
    assert monitor.events == 1
    assert not monitor.update(embeddings(1500, seed + 70, centre=0.8))  # the new regime is the reference now
    assert monitor.update(embeddings(60, seed + 90))  # and going back is a change again


def test_monitor_sees_a_gradual_change():
    monitor = DriftMonitor(16)
    monitor.update(embeddings(500, 0))
    for i in range(10):
        monitor.update(embeddings(50, i + 1, centre=0.1 * i))
    assert monitor.events >= 1


def test_false_alarm_rate_of_the_monitor_on_stationary_embeddings():
    monitors = [DriftMonitor(16) for _ in range(10)]
    for seed, monitor in enumerate(monitors):
        monitor.update(embeddings(2000, 1000 + seed))
    assert sum(m.events for m in monitors) <= 2  # in 20,000 samples


def test_rebase_follows_a_changed_encoder():
    monitor = DriftMonitor(16)
    monitor.update(embeddings(500, 0))
    turned = np.roll(embeddings(800, 1, centre=np.arange(16) / 16), 3, axis=1)
    monitor.rebase(turned[:64])
    assert not monitor.update(turned[64:])


def test_state_roundtrip_at_every_stage():
    z = np.concatenate([embeddings(300, 0), embeddings(60, 1, centre=0.8), embeddings(200, 2, centre=0.8)])
    straight, resumed = DriftMonitor(16), DriftMonitor(16)
    for i in range(0, len(z), 20):
        straight.update(z[i : i + 20])
        fresh = DriftMonitor(16)
        fresh.restore({k: v.copy() for k, v in resumed.tensors().items()})
        fresh.update(z[i : i + 20])
        resumed = fresh
        for name, value in straight.tensors().items():
            np.testing.assert_array_equal(resumed.tensors()[name], value)
    assert straight.events == 1
