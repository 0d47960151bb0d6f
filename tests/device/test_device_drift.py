import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device.drift.compensation import Displacement
from edgessl.device.drift.contexts import Contexts
from edgessl.device.drift.monitor import DriftMonitor
from edgessl.device.drift.statistics import GROUPS, Scale, input_statistics, statistics_width
from edgessl.device.drift.windows import KERNELS, WindowTest, separation
from edgessl.errors import ConfigError


def embeddings(n, seed, centre=0.0, dim=16):
    z = np.random.default_rng(seed).normal(size=(n, dim)) + centre
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
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
    monitors = [DriftMonitor(16) for _ in range(5)]
    for seed, monitor in enumerate(monitors):
        monitor.update(embeddings(2000, 1000 + seed))
    assert sum(m.events for m in monitors) <= 2  # in 10,000 samples


def test_rebase_follows_a_changed_encoder():
    """A rotation: what was embedded before it is told where it lies now, what comes after is embedded anew."""
    z, later = embeddings(564, 0, centre=np.arange(16) / 16), embeddings(800, 1, centre=np.arange(16) / 16)
    for kind in ("moved", "not told"):
        monitor = DriftMonitor(16)
        monitor.update(z[64:])
        if kind == "moved":
            turned = np.roll(z[:64], 3, axis=1)
            monitor.rebase(turned, Displacement(z[:64], turned))
        assert monitor.update(np.roll(later, 3, axis=1)) is (kind == "not told")


def test_state_roundtrip_at_every_stage():
    z = np.concatenate([embeddings(300, 0), embeddings(60, 1, centre=0.8), embeddings(200, 2, centre=0.8)])
    raw = np.random.default_rng(3).normal(size=(len(z), 4))
    straight, resumed = DriftMonitor(16, 4), DriftMonitor(16, 4)
    for i in range(0, len(z), 20):
        straight.update(z[i : i + 20], raw[i : i + 20])
        straight.learned(float(i))
        fresh = DriftMonitor(16, 4)
        fresh.restore({k: v.copy() for k, v in resumed.tensors().items()})
        fresh.update(z[i : i + 20], raw[i : i + 20])
        fresh.learned(float(i))
        resumed = fresh
        for name, value in straight.tensors().items():
            np.testing.assert_array_equal(resumed.tensors()[name], value)
        assert (fresh.last, fresh.by_signal) == (straight.last, straight.by_signal)
    assert straight.events == 1


def test_each_signal_has_its_change():
    """What one signal cannot see another does, and the event says which it was."""
    z, rng = embeddings(2000, 0), np.random.default_rng(1)
    raw = rng.normal(size=(2000, 6))
    quiet = DriftMonitor(16, 6)
    assert not quiet.update(z, raw)
    assert not any(quiet.learned(v) for v in 1 + 0.1 * rng.normal(size=400))
    raw[:100, 5] += 1.5
    assert quiet.update(z[:100], raw[:100])
    assert (quiet.last, quiet.by_signal["input"]) == ("input", 1)

    loss = DriftMonitor(16)
    assert not any(
        loss.learned(v) for v in np.append(np.linspace(3, 1, 300), [1] * 300) + 0.1 * rng.normal(size=600)
    )  # learning is no drift
    assert any(loss.learned(v) for v in 2 + 0.1 * rng.normal(size=60))
    assert loss.last == "loss"

    # two clusters at the same distance from the mean: another share of them moves no distance
    centres = np.array([[1.0, 0.0], [-1.0, 0.0]])
    share = lambda n, p: (centres[(rng.random(n) < p).astype(int)] + 0.1 * rng.normal(size=(n, 2))).astype(np.float32)  # noqa: E731
    mixture = WindowTest(2)
    mixture.refer(share(64, 0.5))
    assert not any(mixture.update(z) for z in share(600, 0.5))
    assert any(mixture.update(z) for z in share(100, 0.95))


def test_bursts_of_equals_are_got_used_to():
    """Clusters in runs of 20 on average: an event for every run at first, few once every 16th sample counts."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 16))
    owners = np.repeat(rng.integers(5, size=600), 1 + rng.poisson(19, 600))
    z = (centres[owners] + 0.3 * rng.normal(size=(len(owners), 16))).astype(np.float32)
    monitor = DriftMonitor(16)
    monitor.update(z[:3000])
    early = monitor.events
    assert monitor.stride > 1
    monitor.update(z[3000:])
    assert monitor.events - early <= early  # in three times as many samples


def test_contexts_are_known_again():
    monitor, found = DriftMonitor(16), []
    for seed, centre in enumerate((0.0, 0.8, 0.0, -0.8, 0.8)):
        monitor.update(embeddings(300, seed, centre))
        found.append(monitor.context)
    assert found == [0, 1, 0, 2, 1]
    assert monitor.contexts == 3


def test_contexts_are_bounded_and_keep_their_numbers():
    contexts = Contexts(16, most=3)
    directions = 3 * np.eye(16)
    names = [contexts.enter(embeddings(64, i, directions[i])) for i in range(5)]
    assert names == list(range(5))
    assert contexts.tensors()["rows"].shape == (3, Contexts.ROWS, 16)
    assert contexts.enter(embeddings(64, 9, directions[3])) == 3
    assert contexts.enter(embeddings(64, 9, directions[0])) == 5  # forgotten, so new


@pytest.mark.parametrize("kernel", KERNELS)
def test_separation_is_the_statistic_and_its_score_standard_normal(kernel):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(6, 3)) + 0.7
    rows = np.concatenate([x, y])
    apart = np.linalg.norm(rows[:, None] - rows, axis=2)
    gram = -apart if kernel == "energy" else np.exp(-(apart**2) / np.median(apart**2))
    statistic = gram[:9, :9].mean() + gram[9:, 9:].mean() - 2 * gram[:9, 9:].mean()
    weights = np.concatenate([np.full(9, 1 / 9), np.full(6, -1 / 6)])
    shuffled = [w @ gram @ w for w in (rng.permutation(weights) for _ in range(20_000))]
    centred = (np.eye(15) - 1 / 15) @ gram @ (np.eye(15) - 1 / 15)
    eigen = np.linalg.eigvalsh(centred)
    freedom = eigen.sum() ** 2 / (eigen**2).sum()
    chance = scipy.stats.chi2(freedom, scale=np.mean(shuffled) / freedom)
    expected = scipy.stats.norm.isf(chance.sf(statistic))
    assert separation(x, y, kernel) == pytest.approx(expected, abs=0.05)
    scores = [separation(embeddings(64, s), embeddings(32, s + 5000), kernel) for s in range(300)]
    assert abs(np.mean(scores)) < 0.15
    assert 0.75 < np.std(scores) < 1.15
    assert separation(np.ones((5, 2)), np.ones((4, 2)), kernel) == 0
    with pytest.raises(ConfigError, match="energy, gaussian"):
        WindowTest(3, "linear")


def test_displacement_is_exact_for_a_shift_and_local_otherwise():
    z = embeddings(64, 0).astype(np.float64)
    shift = np.arange(16) / 8
    moved = Displacement(z, z + shift)
    np.testing.assert_allclose(moved.apply(embeddings(9, 1)), embeddings(9, 1) + shift, atol=1e-6)
    ends = np.array([[5.0, 0.0], [-5.0, 0.0]])
    groups = np.repeat(ends, 20, 0) + 0.1 * np.random.default_rng(0).normal(size=(40, 2))
    two = Displacement(groups, groups + np.repeat([[0.0, 1.0], [0.0, -1.0]], 20, 0))
    np.testing.assert_allclose(two.apply(ends), ends + np.array([[0, 1], [0, -1]]), atol=1e-6)
    one = Displacement(z[:1], z[:1] + 1)
    np.testing.assert_allclose(one.apply(z), z + 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 5))
def test_input_statistics(n, channels, length):
    x = np.random.default_rng(n).normal(size=(n, channels, length)).astype(np.float32)
    found = input_statistics(x)
    assert found.shape == (n, statistics_width((channels, length)))
    wide = x.astype(np.float64)
    expected = wide[:, :, 0] if length == 1 else np.concatenate([wide.mean(2), wide.std(2)], 1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_input_statistics_of_many_channels_are_averaged():
    x = np.arange(1000, dtype=np.float32)[None]
    found = input_statistics(x)
    assert found.shape == (1, GROUPS)
    np.testing.assert_allclose(
        found[0], [part.mean() for part in np.split(x[0], np.linspace(0, 1000, 256, False).astype(int)[1:])]
    )


def test_scale_knows_that_neighbours_resemble_each_other():
    """For a first-order autoregressive series the mean of many varies as the scores of it say."""
    rng, scale = np.random.default_rng(0), Scale(1, rate=1e-9)
    values = np.zeros(20_000)
    for i in range(1, len(values)):
        values[i] = 0.8 * values[i - 1] + rng.normal()
    for value in values:
        scale.update(value)
    means = values.reshape(-1, 400).mean(1)
    assert scale.score(1.0)[0] == pytest.approx(1 / (means.std() * 20), rel=0.15)
    assert Scale(1, 1e-9).score(0.0)[0] == 0
