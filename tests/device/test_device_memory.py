import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device.memory import ReplayMemory
from edgessl.errors import BudgetError, InputError, StateMismatchError


def stream(n, start=0):
    return np.arange(start, start + n, dtype=np.float32).reshape(n, 1)


def held(memory):
    tensors = memory.tensors()
    return tensors["ring"].ravel().tolist(), tensors["reservoir"].ravel().tolist()


@pytest.mark.parametrize(("capacity", "n", "runs"), [(16, 60, 400), (5, 8, 2000)])
def test_every_older_sample_has_the_same_chance(capacity, n, runs):
    counts = np.zeros(n)
    for seed in range(runs):
        memory = ReplayMemory(capacity * 4, (1,), seed)
        memory.add(stream(n))
        counts[[int(v) for v in held(memory)[1]]] += 1
    ring = max(1, capacity // 4)
    older = n - ring
    assert counts[older:].sum() == 0
    expected = runs * (capacity - ring) / older
    # Inclusions within a run exclude each other, so the statistic is scaled to a multinomial's.
    statistic = ((counts[:older] - expected) ** 2 / expected).sum() / (1 - (capacity - ring) / older)
    p = scipy.stats.chi2.sf(statistic, older - 1)
    assert 0.001 < p < 0.999


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 40), st.lists(st.integers(0, 30), max_size=8), st.integers(0, 5))
def test_invariants(capacity, batches, seed):
    memory, single = (ReplayMemory(capacity * 4 + 3, (1,), seed) for _ in range(2))
    total = 0
    for n in batches:
        memory.add(stream(n, total))
        for value in stream(n, total):
            single.add(value[None])
        total += n
    ring, reservoir = held(memory)
    assert memory.nbytes <= capacity * 4 + 3
    assert len(memory) == len(ring) + len(reservoir) == min(total, capacity)
    assert len({*ring, *reservoir}) == len(memory)  # nothing twice
    size = max(1, capacity // 4)
    assert sorted(ring) == list(range(max(0, total - size), total))  # the latest, all of them
    assert held(single) == (ring, reservoir)
    again = ReplayMemory(capacity * 4, (1,), seed)
    again.restore(memory.tensors())
    if total:
        np.testing.assert_array_equal(again.sample(5, 7), memory.sample(5, 7))
    again.add(stream(9, total))
    memory.add(stream(9, total))
    assert held(again) == held(memory)


def test_batches_are_half_recent_half_older():
    memory = ReplayMemory(4 * 64, (1,))
    memory.add(stream(1000))
    batch = memory.sample(20, 0).ravel()
    assert len(set(batch)) == 20
    assert (batch >= 1000 - 16).sum() == 10


@pytest.mark.parametrize(("seen", "n"), [(3, 2), (3, 3), (16, 16), (30, 30), (64, 64), (500, 64), (500, 40)])
def test_no_repeats_while_there_is_enough(seen, n):
    memory = ReplayMemory(4 * 64, (1,))
    memory.add(stream(seen))
    assert len(set(memory.sample(n, 1).ravel())) == n


def test_repeats_only_when_all_is_used():
    memory = ReplayMemory(4 * 64, (1,))
    memory.add(stream(5))
    batch = memory.sample(12, 1).ravel()
    assert set(batch) == {0, 1, 2, 3, 4}
    assert len(batch) == 12


def test_draws_depend_on_the_seed_and_the_number_only():
    memory = ReplayMemory(4 * 64, (1,), seed=3)
    memory.add(stream(200))
    first = memory.sample(8, 5)
    memory.sample(8, 6)
    np.testing.assert_array_equal(memory.sample(8, 5), first)
    assert not np.array_equal(memory.sample(8, 6), first)


def test_samples_are_copies():
    memory = ReplayMemory(4 * 64, (1,))
    x = stream(10)
    memory.add(x)
    x[:] = -1
    memory.sample(4, 0)[:] = -1
    assert min(held(memory)[0]) == 0


def test_errors():
    with pytest.raises(BudgetError, match=r"99 bytes hold 1 samples of 64 bytes.*give 128 bytes"):
        ReplayMemory(99, (1, 4, 4))
    with pytest.raises(BudgetError, match="give 512 bytes"):
        ReplayMemory(-5, (1, 4, 4), least=8)
    memory = ReplayMemory(999, (1, 4, 4))
    with pytest.raises(InputError, match="cannot draw 3 samples from 0"):
        memory.sample(3, 0)
    for bad in (np.zeros((2, 4, 4), np.float32), np.zeros((2, 1, 4, 4))):
        with pytest.raises(InputError, match="expected float32"):
            memory.add(bad)
    with pytest.raises(StateMismatchError, match="seed 0"):
        ReplayMemory(999, (1, 4, 4), seed=1).restore(memory.tensors())
    with pytest.raises(StateMismatchError, match="ring"):
        memory.restore(memory.tensors() | {"ring": np.zeros((1, 1, 4, 4), np.float32)})
    assert len(memory) == 0
