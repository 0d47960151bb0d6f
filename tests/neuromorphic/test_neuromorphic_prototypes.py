"""Prototypes: running means with a rate of their own, novelty that allocates, and no forgetting of other classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgessl.errors import BudgetError, ConfigError, InputError, StateMismatchError
from neuromorphic.prototypes import Prototypes
from neuromorphic.simulator import Simulator

Array = np.ndarray[Any, np.dtype[Any]]


def centres(k: int, n: int = 24, seed: int = 0) -> Array:
    return np.abs(np.random.default_rng(seed).normal(size=(k, n))) * (
        np.random.default_rng(seed + 1).random((k, n)) < 0.4
    )


def near(centre: Array, count: int, seed: int, noise: float = 0.08) -> Array:
    return np.maximum(centre + noise * np.random.default_rng(seed).normal(size=(count, len(centre))), 0)


def unit(x: Array) -> Array:
    return np.asarray(x, np.float64) / np.linalg.norm(x, axis=-1, keepdims=True)


def test_a_prototype_is_the_direction_of_what_it_stands_for() -> None:
    """With a = 1/g and w at x / s, the direction is that of the samples' sum, but for rounding."""
    samples = near(centres(1)[0], 40, 1)
    prototypes = Prototypes(24, 4, novelty=0.5)
    for x in samples:
        assert prototypes.observe(x) == 0
    mean = unit(unit(samples).sum(0))
    assert float(unit(prototypes.weights[0]) @ mean) > 0.998
    assert prototypes.counts.tolist() == [40, 0, 0, 0]


def test_novelty_allocates_one_prototype_per_cluster() -> None:
    prototypes = Prototypes(24, 12, novelty=0.85)
    for k, centre in enumerate(centres(5)):
        for x in near(centre, 10, k, noise=0.03):
            prototypes.observe(x)
    assert len(prototypes) == 5
    assert prototypes.counts[:5].tolist() == [10] * 5
    assert prototypes.classify(centres(5)) == [None] * 5


def test_classes_one_after_another_leave_the_earlier_ones_as_they_were() -> None:
    prototypes = Prototypes(24, 12, novelty=0.85)
    known = centres(4)
    before: Array | None = None
    for k, centre in enumerate(known):
        for x in near(centre, 8, k):
            prototypes.observe(x, f"class {k}")
        if before is not None:
            np.testing.assert_array_equal(prototypes.weights[:k], before)
        before = prototypes.weights[: k + 1].copy()
    assert prototypes.classify(known) == [f"class {k}" for k in range(4)]
    assert prototypes.classify(known[2]) == "class 2"


def test_a_label_that_clashes_splits_and_a_full_memory_says_so() -> None:
    prototypes = Prototypes(24, 2, novelty=0.5)
    a, b = centres(2)
    prototypes.observe(a)
    prototypes.observe(a, "one")
    assert prototypes.owner.tolist() == [0, -1]  # the label named what was there
    assert prototypes.observe(a + 0.05, "two") == 1
    assert prototypes.counts.tolist() == [2, 1]
    with pytest.raises(BudgetError, match="all 2 prototypes bear other labels"):
        prototypes.observe(b, "three")
    assert prototypes.observe(b) in (0, 1)  # without a label the nearest makes do
    assert prototypes.follow(b) == (prototypes.similarity(b).max() >= 0.5)


def test_the_network_sends_the_products_that_cosines_are_made_of() -> None:
    prototypes = Prototypes(24, 3, novelty=0.9)
    for x in centres(3):
        prototypes.observe(x)
    x = near(centres(3)[1], 1, 9)[0]
    payload = np.round(unit(x) * 254).astype(np.int64)
    silent = {name: np.zeros((1, 2, 3), np.int32) for name in ("winner", "gain", "loss")}
    simulator = Simulator(prototypes.network)
    simulator.restore(prototypes._simulator.state())
    features = np.stack([payload, 0 * payload]).astype(np.int32)[None]
    sent = simulator.run({"features": features, **silent}).spikes["similarity"][0, 1]
    np.testing.assert_array_equal(sent, (prototypes.weights.astype(np.int64) @ payload) >> 7)
    np.testing.assert_array_equal(simulator.weights("match")[0], prototypes.weights)  # no winner, nothing learned
    cosines = prototypes.weights @ payload / np.linalg.norm(prototypes.weights, axis=1) / np.linalg.norm(payload)
    np.testing.assert_allclose(prototypes.similarity(x), cosines, atol=1e-9)


def test_saved_prototypes_go_on_with_the_same_bits() -> None:
    one = Prototypes(24, 4)
    for x in near(centres(1)[0], 5, 0):
        one.observe(x, "a")
    two = Prototypes(24, 4)
    two.restore({k: v.copy() for k, v in one.tensors().items()}, one.labels)
    for prototypes in (one, two):
        for x in near(centres(1)[0], 5, 3):
            prototypes.observe(x)
    np.testing.assert_array_equal(one.weights, two.weights)
    assert two.classify(centres(1)[0]) == "a"
    with pytest.raises(StateMismatchError, match="4 prototypes were saved, here are 5"):
        Prototypes(24, 5).restore(one.tensors(), [])


def test_what_does_not_fit_is_refused() -> None:
    prototypes = Prototypes(3, 2)
    with pytest.raises(InputError, match="no prototype yet"):
        prototypes.classify(np.ones(3))
    with pytest.raises(InputError, match="finite and 0 or more"):
        prototypes.observe(np.array([1.0, -1.0, 0.0]))
    with pytest.raises(InputError, match="a feature above 0"):
        prototypes.observe(np.zeros(3))
    with pytest.raises(InputError, match=r"\(3,\) or \(N, 3\)"):
        prototypes.similarity(np.ones(4))
    with pytest.raises(ConfigError, match=r"novelty must be in 0\.\.1"):
        Prototypes(3, 2, novelty=2)
