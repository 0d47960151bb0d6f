"""Policies that look at embeddings, against brute force over every choice they could make."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device.memory.embedded import Balanced, Herding, MinRed, directions
from edgessl.device.memory.replay import ReplayMemory


def cloud(n, dim, seed):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def most_redundant(rows):
    """Index of the row to drop: of the closest pair the one closer to a third row; the last one at a tie."""
    among = rows @ rows.T
    np.fill_diagonal(among, -np.inf)
    first, second = np.unravel_index(among.argmax(), among.shape)
    first, second = sorted((int(first), int(second)))
    third = [np.delete(among[p], [p, q]).max(initial=-np.inf) for p, q in ((first, second), (second, first))]
    return first if third[0] > third[1] else second


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(2, 6), st.integers(0, 1000))
def test_minred_drops_one_of_the_most_similar_pair(size, dim, seed):
    z = cloud(40, dim, seed)
    policy = MinRed(size, dim, seed=0)
    held = []
    for number, row in enumerate(z):
        exact = directions(row[None])[0].astype(np.float64)
        place = policy.choose(number, row)
        if number < size:
            assert place == number
            held.append(exact)
            continue
        drop = most_redundant(np.array([*held, exact]))
        assert place == (drop if drop < size else -1)
        if place >= 0:
            held[place] = exact
        if number == 25:
            moved = np.array([1, 0])
            policy.refresh(moved, z[:2])
            for p, fresh in zip(moved, directions(z[:2]).astype(np.float64), strict=True):
                held[p] = fresh
    np.testing.assert_array_equal(policy.tensors()["z"], np.array(held, np.float16))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 1000))
def test_herding_keeps_the_best_mean(size, dim, seed):
    z = cloud(40, dim, seed)
    policy = Herding(size, dim, seed=0)
    held, past = [], []
    for number, row in enumerate(z):
        exact = directions(row[None])[0].astype(np.float64)
        past.append(exact)
        place = policy.choose(number, row)
        if number < size:
            held.append(exact)
            continue
        distance = lambda rows: np.linalg.norm(np.mean(rows, 0) - np.mean(past, 0))  # noqa: E731
        options = {p: [*held[:p], exact, *held[p + 1 :]] for p in range(size)} | {-1: list(held)}
        best = min(distance(rows) for rows in options.values())
        assert distance(options[place]) <= best + 1e-9
        held = options[place]


def test_herding_moves_its_mean_with_the_encoder():
    z, policy = cloud(30, 3, 0), Herding(5, 3, seed=0)
    for number, row in enumerate(z):
        policy.choose(number, row)
    before, places = policy.tensors()["z"].astype(float).copy(), np.arange(5)
    mean, fresh = policy.tensors()["mean"].copy(), cloud(5, 3, 1)
    policy.refresh(places, fresh)
    np.testing.assert_allclose(policy.tensors()["mean"], mean + (directions(fresh) - before).mean(0), atol=1e-6)


@pytest.mark.parametrize("order", ["mixed", "blocks"])
def test_balanced_keeps_rare_kinds(order):
    """Three kinds, 90, 8 and 2 percent: a fair sample of 60 holds about one of the rarest."""
    centres = np.eye(8)[:3]
    shares = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        kinds = np.repeat([0, 1, 2], [1800, 160, 40])
        if order == "mixed":
            rng.shuffle(kinds)
        z = (centres[kinds] + 0.05 * rng.normal(size=(2000, 8))).astype(np.float32)
        policy, held = Balanced(60, 8, seed), np.zeros(60, int)
        for number, row in enumerate(z):
            place = policy.choose(number, row)
            if place >= 0:
                held[place] = kinds[number]
        shares.append(np.bincount(held, minlength=3))
    shares = np.mean(shares, 0)
    assert shares[2] >= 8
    assert shares[1] >= 12


def test_a_memory_refreshes_what_is_still_there_and_nothing_else():
    z = cloud(60, 4, 0)
    memory = ReplayMemory(16 * (4 + 8), (1,), policy="minred", embedding_dim=4)
    numbers = np.arange(60, dtype=np.float32)[:, None]
    memory.add(numbers[:50], z[:50])
    draw = memory.sample(16, 0)
    memory.add(numbers[50:], z[50:])
    before = memory.tensors()["policy.z"].copy()
    fresh = cloud(16, 4, 1)
    memory.refresh(draw, fresh)
    after, there = memory.tensors()["policy.z"], memory.tensors()["number"][4:]
    for place, number in enumerate(there):
        row = np.flatnonzero((draw.numbers == number) & (draw.places >= 4))
        expected = directions(fresh[row])[0] if len(row) else before[place]
        np.testing.assert_array_equal(after[place], expected)
    assert (after != before).any()
