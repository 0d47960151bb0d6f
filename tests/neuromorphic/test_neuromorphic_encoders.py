"""Spike encoders against what their definitions say: counts, times, and signals rebuilt from the spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgessl.data import array_source
from edgessl.errors import ConfigError, InputError
from neuromorphic.spike_data import EncodedSource, EventSource, SpikeSubset, open_spikes
from neuromorphic.spike_encoders import (
    SPIKE_ENCODERS,
    BernoulliRate,
    Latency,
    LevelCrossing,
    MelCrossing,
    RegularRate,
    Signed,
    build_encoder,
)

Array = np.ndarray[Any, np.dtype[Any]]


def rngs(n: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(n)]


def test_regular_counts_are_the_values_to_within_a_spike() -> None:
    x = np.linspace(0, 1, 101, dtype=np.float32).reshape(1, 1, 101, 1)
    spikes = RegularRate(steps=50, gain=0.8)(x, rngs(1))
    assert spikes.shape == (1, 50, 101)
    assert np.abs(spikes.sum(1)[0] - 50 * 0.8 * x.ravel()).max() <= 1
    for channel in range(20, 101):  # evenly: gaps of one channel differ by at most one step
        gaps = np.diff(np.flatnonzero(spikes[0, :, channel]))
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert not spikes[0, :, 0].any()


def test_bernoulli_has_the_mean_and_variance_of_a_coin() -> None:
    x = np.full((4, 1, 50, 50), 0.6, np.float32)
    spikes = BernoulliRate(steps=20, gain=0.5)(x, rngs(4))
    n = spikes.size
    assert spikes.mean() == pytest.approx(0.3, abs=4 * (0.21 / n) ** 0.5)
    assert spikes.sum(1).var() == pytest.approx(20 * 0.21, rel=0.1)


def test_latency_is_one_spike_the_brighter_the_earlier() -> None:
    x = np.array([1.0, 0.5, 0.25, 0.04], np.float32).reshape(1, 1, 4, 1)
    spikes = Latency(steps=9, dark=0.05)(x, rngs(1))
    assert [np.flatnonzero(spikes[0, :, c]).tolist() for c in range(4)] == [[0], [4], [6], []]


@pytest.mark.parametrize("start", ["first", "zero"])
def test_a_slow_signal_can_be_rebuilt_from_its_crossings(start: str) -> None:
    t = np.arange(400)
    x = np.stack([np.sin(t / 40), 2 * np.cos(t / 55)])[None].astype(np.float32)
    threshold = 0.1
    spikes = LevelCrossing(threshold, scale="none", start=start)(x, rngs(1))
    assert spikes.shape == (1, 400, 4)
    steps = spikes[0, :, :2].astype(float) - spikes[0, :, 2:]
    first = x[0, :, 0] if start == "first" else 0.0
    rebuilt = first + threshold * np.cumsum(steps, 0)
    begin = 0 if start == "first" else 25  # a level of 2 takes 20 spikes to reach
    assert np.abs(rebuilt - x[0].T)[begin:].max() < threshold + 1e-6


def test_level_crossing_knows_no_unit_when_it_scales_and_pools_steps() -> None:
    x = np.random.default_rng(0).standard_normal((3, 2, 64)).cumsum(2).astype(np.float32)
    coder = LevelCrossing(0.3, every=2)
    np.testing.assert_array_equal(coder(x, rngs(3)), coder(1000 * x + 7, rngs(3)))
    assert coder(x, rngs(3)).shape == (3, *coder.shape((2, 64))) == (3, 32, 4)


def test_silence_has_no_spikes_and_a_burst_has_on_spikes_first() -> None:
    coder = MelCrossing(threshold=1.0, repeat=3)
    mel = np.zeros((2, 1, 4, 10), np.float32)
    mel[1, 0, 2, 5:7] = 2.5
    spikes = coder(mel, rngs(2))
    assert spikes.shape == (2, *coder.shape((1, 4, 10))) == (2, 30, 8)
    assert not spikes[0].any()
    assert np.argwhere(spikes[1]).tolist() == [[15, 2], [16, 2], [21, 6], [22, 6]]


def test_signed_spikes_become_two_channels() -> None:
    x = np.zeros((1, 2, 7), np.float32)
    x[0, 0, 1], x[0, 1, 4], x[0, 1, 5] = 1, -1, -1
    assert np.argwhere(Signed()(x, [])[0]).tolist() == [[1, 0], [4, 3], [5, 3]]
    pooled = Signed(every=3)(x, [])
    assert pooled.shape == (1, 2, 4)
    assert np.argwhere(pooled[0]).tolist() == [[0, 0], [1, 3]]
    with pytest.raises(InputError, match="use level_crossing"):
        Signed()(x * 0.5, [])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("regular", {"gain": 2.0}, "0 < gain <= 1"),
        ("bernoulli", {"steps": 0}, "1 or more"),
        ("latency", {"dark": 1.0}, "dark < 1"),
        ("level_crossing", {"threshold": 0.0}, "expected > 0"),
        ("level_crossing", {"scale": "max"}, "sample or none"),
        ("mel_crossing", {"repeat": 0}, "1 or more"),
        ("signed", {"every": 0}, "1 or more"),
        ("regular", {"rate": 0.1}, "has no option 'rate'"),
        ("poisson", {}, "expected one of regular"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(name, options)


@pytest.mark.parametrize("name", ["regular", "bernoulli", "latency"])
def test_pixels_outside_zero_to_one(name: str) -> None:
    with pytest.raises(InputError, match=r"expected pixels in \[0, 1\]"):
        build_encoder(name, {})(np.full((1, 1, 2, 2), 1.5, np.float32), rngs(1))


@pytest.mark.parametrize("name", SPIKE_ENCODERS)
def test_every_encoder_gives_the_shape_it_says(name: str) -> None:
    x = (np.random.default_rng(1).random((3, 2, 5, 20)) > 0.5).astype(np.float32)
    x = x[:, :, 0] if name == "signed" else x
    encoder = build_encoder(name, {})
    spikes = encoder(x, rngs(3))
    assert spikes.shape == (3, *encoder.shape(x.shape[1:]))
    assert spikes.dtype == np.uint8
    assert set(np.unique(spikes)) <= {0, 1}
    np.testing.assert_array_equal(spikes[1:], encoder(x[1:], rngs(3)[1:]))  # whatever the batch


def test_draws_differ_and_repeat() -> None:
    source = EncodedSource(array_source(np.full((5, 4, 4), 128, np.uint8)), BernoulliRate(steps=8), seed=1)
    a, b = source.take(np.array([0, 3])), source.take(np.array([3, 0]), draw=1)
    np.testing.assert_array_equal(a[::-1], source.take(np.array([3, 0])))
    assert (a[::-1] != b).any()
    assert (a[0] != a[1]).any()
    other = EncodedSource(source.source, source.encoder, seed=2)
    assert (a != other.take(np.array([0, 3]))).any()


def test_events_are_binned_by_time_cell_and_polarity() -> None:
    source = EventSource(
        x=np.array([0, 1, 3, 3]),
        y=np.array([0, 1, 2, 2]),
        polarity=np.array([0, 0, 1, 1]),
        time=np.array([0, 10, 99, 100]),
        offsets=np.array([0, 2, 4]),
        labels=np.array([7, 8]),
        side=4,
        steps=10,
        pool=2,
        duration=100.0,
    )
    assert source.shape == (10, 8)
    spikes = source.take(np.array([1, 0]))
    assert np.argwhere(spikes).tolist() == [[0, 9, 7], [1, 0, 0], [1, 1, 0]]  # the event at 100 is too late
    part = SpikeSubset(source, np.array([1]))
    assert len(part) == 1
    assert part.labels is not None
    assert part.labels.tolist() == [8]
    np.testing.assert_array_equal(part.take(np.array([0])), spikes[:1])


def test_open_spikes_refuses_what_it_cannot_encode() -> None:
    with pytest.raises(ConfigError, match="reads shared:nmnist_small"):
        open_spikes("digits", "events")
    assert open_spikes("digits", options={"steps": 5}).shape == (5, 256)


SHAPES = {
    "shared:fashion_mnist:test": ((12, 784), 10000),
    "shared:nmnist_small": ((30, 578), 1000),
    "shared:nmnist_small:test": ((30, 578), 100),
    "shared:fsdd:test": ((60, 40), 300),
    "shared:qtdb_ecg_spikes": ((1301, 8), 618),
}


@pytest.mark.parametrize("spec", SHAPES)
def test_shared_data_as_spikes(spec: str) -> None:
    from edgessl.data.shared import data_file
    from edgessl.errors import DataError

    try:
        data_file(spec.split(":")[1])
    except DataError as error:
        pytest.skip(str(error))
    source = open_spikes(spec)
    assert (source.shape, len(source)) == SHAPES[spec]
    spikes = source.take(np.arange(8))
    assert 0.01 < spikes.mean() < 0.3
