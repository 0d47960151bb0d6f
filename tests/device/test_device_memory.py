import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device.memory.codec import ByteCodec
from edgessl.device.memory.policy import POLICIES
from edgessl.device.memory.replay import ReplayMemory
from edgessl.errors import BudgetError, ConfigError, InputError, StateMismatchError

DIM = 4
TABLE = np.random.default_rng(0).normal(size=(2000, DIM)).astype(np.float32)


def stream(n, start=0):
    return np.arange(start, start + n, dtype=np.float32).reshape(n, 1)


def embeddings(n, start=0):
    """Of samples start .. start + n - 1, each always the same."""
    return TABLE[start : start + n]


def make(capacity, policy="reservoir", seed=0, **options):
    """A memory that `capacity` samples of one number fit into, with a byte or two to spare."""
    row = 4 + 4 * options.get("stored_dim", 0) + (2 * DIM if policy in ("balanced", "minred", "herding") else 0)
    return ReplayMemory(capacity * row + 3, (1,), policy=policy, seed=seed, embedding_dim=DIM, **options)


def held(memory):
    """The values in the ring and elsewhere, by place."""
    tensors = memory.tensors()
    values = np.where(tensors["number"] < 0, np.nan, memory._slots[tensors["place"], 0])
    ring = memory._ring
    return values[:ring][~np.isnan(values[:ring])].tolist(), values[ring:][~np.isnan(values[ring:])].tolist()


def bits(memory):
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in memory.tensors().items()}


@pytest.mark.parametrize(("capacity", "n", "runs"), [(16, 60, 400), (5, 8, 2000)])
def test_every_older_sample_has_the_same_chance(capacity, n, runs):
    counts = np.zeros(n)
    for seed in range(runs):
        memory = make(capacity, seed=seed)
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


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.integers(2, 40),
    st.lists(st.integers(0, 30), max_size=8),
    st.integers(0, 5),
    st.booleans(),
)
def test_invariants(policy, room, batches, seed, stores):
    capacity = 4 * room if policy == "recent" else room
    options = {"stored_dim": DIM if stores else 0}
    memory, single = (make(capacity, policy, seed, **options) for _ in range(2))
    total = 0
    for t, n in enumerate(batches):
        memory.add(stream(n, total), embeddings(n, total))
        for i in range(total, total + n):
            single.add(stream(1, i), embeddings(1, i))
        total += n
        for one in (memory, single) if total else ():
            draw = one.sample(6, t)
            one.refresh(draw, embeddings(6, 1000 + t))
    size = max(1, capacity // 4)
    ring, older = held(memory)
    assert memory.nbytes <= capacity * (4 + 4 * DIM * stores + 2 * DIM * (policy in ("balanced", "minred", "herding")))
    assert memory.capacity == (size if policy == "recent" else capacity)
    assert len(memory) == len(ring) + len(older) == min(total, memory.capacity)
    assert len({*ring, *older}) == len(memory)  # nothing twice
    assert sorted(ring) == list(range(max(0, total - size), total))  # the latest, all of them
    assert bits(single) == bits(memory)
    again = make(capacity, policy, seed, **options)
    again.restore({name: array.copy() for name, array in memory.tensors().items()})
    assert bits(again) == bits(memory)
    if total:
        draw = again.sample(5, 7)
        np.testing.assert_array_equal(draw.samples, memory.sample(5, 7).samples)
        np.testing.assert_array_equal(draw.samples[:, 0], draw.numbers)  # values are the numbers here
        if stores:
            np.testing.assert_array_equal(draw.stored, TABLE[draw.numbers])
        else:
            assert draw.stored is None
        latest = draw.samples[:, 0] >= total - size
        assert draw.recent == latest.sum()
        assert latest[: draw.recent].all()
    for one in (again, memory):
        one.add(stream(9, total), embeddings(9, total))
    assert bits(again) == bits(memory)


def test_batches_are_half_recent_half_older():
    memory = make(64)
    memory.add(stream(1000))
    draw = memory.sample(20, 0)
    batch = draw.samples.ravel()
    assert len(set(batch)) == 20
    assert draw.recent == 10
    assert (batch[:10] >= 1000 - 16).all()
    assert (batch[10:] < 1000 - 16).all()


@pytest.mark.parametrize(("seen", "n"), [(3, 2), (3, 3), (16, 16), (30, 30), (64, 64), (500, 64), (500, 40)])
def test_no_repeats_while_there_is_enough(seen, n):
    memory = make(64)
    memory.add(stream(seen))
    assert len(set(memory.sample(n, 1).samples.ravel())) == n


def test_repeats_only_when_all_is_used():
    memory = make(64)
    memory.add(stream(5))
    batch = memory.sample(12, 1).samples.ravel()
    assert set(batch) == {0, 1, 2, 3, 4}
    assert len(batch) == 12


def test_draws_of_older_samples_only():
    memory = make(64)
    memory.add(stream(16))
    with pytest.raises(InputError, match="cannot draw 4 samples from 0 older"):
        memory.sample_older(4, 0)
    memory.add(stream(500, 16))
    for n, different in ((48, 48), (100, 48), (7, 7)):
        draw = memory.sample_older(n, 3)
        assert len(draw.samples) == n
        assert len(set(draw.samples.ravel())) == different
        assert draw.recent == 0
        assert draw.samples.max() < 500
    assert not np.array_equal(memory.sample_older(7, 4).samples, draw.samples)


def test_draws_depend_on_the_seed_and_the_number_only():
    memory = make(64, seed=3)
    memory.add(stream(200))
    first = memory.sample(8, 5).samples
    memory.sample(8, 6)
    np.testing.assert_array_equal(memory.sample(8, 5).samples, first)
    assert not np.array_equal(memory.sample(8, 6).samples, first)


def test_samples_are_copies():
    memory = make(64)
    x = stream(10)
    memory.add(x)
    x[:] = -1
    memory.sample(4, 0).samples[:] = -1
    assert min(held(memory)[0]) == 0


def test_fifo_and_recent_hold_the_latest():
    fifo, recent = make(40, "fifo"), make(40, "recent")
    for memory in (fifo, recent):
        memory.add(stream(333))
    assert sorted([*held(fifo)[0], *held(fifo)[1]]) == list(range(293, 333))
    assert sorted(held(recent)[0]) == list(range(323, 333))
    assert recent.nbytes == 40
    assert recent.sample(6, 0).recent == 6


def test_bytes_are_exact_for_pixels_and_within_half_a_step_elsewhere():
    codec = ByteCodec()
    pixels = np.arange(256).astype(np.float32) / np.float32(255)
    stored, beyond = codec.encode(pixels)
    assert (stored == np.arange(256)).all()
    assert beyond == 0
    assert codec.decode(stored).tobytes() == pixels.tobytes()
    x = np.random.default_rng(0).uniform(-1.28, 1.27, 5000).astype(np.float32)
    latents = ByteCodec(0.01, 128)
    stored, beyond = latents.encode(x)
    assert beyond == 0
    assert np.abs(latents.decode(stored) - x).max() <= 0.00501
    stored, beyond = latents.encode(np.array([-1.284, -1.29, 1.274, 1.28, 1e30, -1e30], np.float32))
    assert beyond == 4
    np.testing.assert_allclose(latents.decode(stored), [-1.28, -1.28, 1.27, 1.27, 1.27, -1.28], rtol=1e-6)


def test_byte_memory_takes_a_quarter_and_counts_what_it_cannot_hold():
    memory = ReplayMemory(8 * 16, (1, 4, 4), codec=ByteCodec())
    assert memory.capacity == 8
    x = np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4)).astype(np.float32) / np.float32(255)
    memory.add(x)
    draw = memory.sample(8, 0)
    np.testing.assert_array_equal(draw.samples, x[draw.numbers])
    assert memory.saturated == 0
    memory.add(x[:2] + 1)
    assert memory.saturated == np.count_nonzero(x[:2] > 0.5 / 255)
    again = ReplayMemory(8 * 16, (1, 4, 4), codec=ByteCodec())
    again.restore(memory.tensors())
    assert again.saturated == memory.saturated


@pytest.mark.parametrize("codec", [None, ByteCodec()])
def test_a_stuck_sensor_does_not_replace_the_past(codec):
    whole, single = (ReplayMemory(4 * 40, (1,), codec=codec) for _ in range(2))
    x = np.concatenate([stream(100) / 255, np.full((500, 1), 1 / 255, np.float32), stream(3) / 255])
    whole.add(x)
    for row in x:
        single.add(row[None])
    assert bits(whole) == bits(single)
    assert whole.repeated == 500 - ReplayMemory.REPEATS
    assert whole.seen == 103 + ReplayMemory.REPEATS
    again = ReplayMemory(4 * 40, (1,), codec=codec)
    again.restore(whole.tensors())
    for memory in (whole, again):
        memory.add(np.full((20, 1), 2 / 255, np.float32))
    assert bits(whole) == bits(again)


def test_errors():
    with pytest.raises(BudgetError, match=r"99 bytes hold 1 samples of 64 bytes.*give 128 bytes"):
        ReplayMemory(99, (1, 4, 4))
    with pytest.raises(BudgetError, match="give 512 bytes"):
        ReplayMemory(-5, (1, 4, 4), least=8)
    with pytest.raises(BudgetError, match="give 2048 bytes"):
        ReplayMemory(2047, (1, 4, 4), least=8, policy="recent")
    with pytest.raises(ConfigError, match="unknown policy 'lru'; choose one of reservoir, recent"):
        ReplayMemory(999, (1, 4, 4), policy="lru")
    with pytest.raises(ConfigError, match="embedding_dim"):
        ReplayMemory(999, (1, 4, 4), policy="minred")
    for scale, zero_point in ((0.0, 0), (np.nan, 0), (1.0, 256)):
        with pytest.raises(ConfigError, match="uint8 codec"):
            ByteCodec(scale, zero_point)
    memory = ReplayMemory(999, (1, 4, 4))
    with pytest.raises(InputError, match="cannot draw 3 samples from 0"):
        memory.sample(3, 0)
    for bad in (np.zeros((2, 4, 4), np.float32), np.zeros((2, 1, 4, 4))):
        with pytest.raises(InputError, match="expected float32"):
            memory.add(bad)
    for z in (None, np.zeros((3, DIM + 1), np.float32)):
        with pytest.raises(InputError, match=rf"expected embeddings \[3, {DIM}\]"):
            make(9, "herding").add(stream(3), z)
    with pytest.raises(StateMismatchError, match="seed 0"):
        ReplayMemory(999, (1, 4, 4), seed=1).restore(memory.tensors())
    with pytest.raises(StateMismatchError, match="reservoir, float32"):
        ReplayMemory(999, (1, 4, 4), policy="fifo").restore(memory.tensors())
    with pytest.raises(StateMismatchError, match="slots"):
        memory.restore(memory.tensors() | {"slots": np.zeros((1, 1, 4, 4), np.float32)})
    assert len(memory) == 0
