"""Streams: partitions of the data, deterministic by seed, read strictly in order and never ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgessl.continual.streams import (
    Budget,
    Order,
    Stream,
    blurred,
    by_class,
    by_group,
    by_share,
    irregular,
    limited,
    recurring,
    repeated,
    skewed_shards,
)
from edgessl.errors import ConfigError, InputError

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(lambda values: np.array(values))
SEEDS = st.integers(0, 2**31)


@dataclass
class Recorder:
    """A source that remembers what was read of it."""

    count: int
    read: list[int] = field(default_factory=list)
    kind: Any = "signal"
    shape: tuple[int, ...] = (1, 1)
    units: str = "u"
    labels: Any = None
    timestamps: Any = None

    def __len__(self) -> int:
        return self.count

    def take(self, indices: np.ndarray) -> np.ndarray:
        self.read += indices.tolist()
        return indices.astype(np.float32)[:, None, None]


@given(LABELS, SEEDS, st.booleans(), st.data())
def test_class_incremental_is_a_partition_with_whole_classes(labels, seed, shuffle, data) -> None:
    per_context = data.draw(st.integers(1, len(np.unique(labels))))
    order = by_class(labels, per_context, seed, shuffle)
    assert sorted(order.indices) == list(range(len(labels)))
    assert (np.diff(order.contexts) >= 0).all()
    for label in np.unique(labels):
        assert len(np.unique(order.contexts[labels[order.indices] == label])) == 1
    sizes = [len(np.unique(labels[order.indices[order.contexts == c]])) for c in range(len(order.names))]
    assert sizes[:-1] == [per_context] * (len(sizes) - 1)
    again = by_class(labels, per_context, seed, shuffle)
    np.testing.assert_array_equal(again.indices, order.indices)


@given(LABELS, st.none() | SEEDS)
def test_domains_come_one_after_the_other(groups, seed) -> None:
    order = by_group(groups, seed=seed)
    assert sorted(order.indices) == list(range(len(groups)))
    names = np.array([int(name) for name in order.names])
    np.testing.assert_array_equal(names[order.contexts], groups[order.indices])
    if seed is None:  # as recorded
        for context in range(len(names)):
            assert (np.diff(order.indices[order.contexts == context]) > 0).all()
    reverse = by_group(groups, sequence=names[::-1].tolist(), seed=seed)
    np.testing.assert_array_equal(groups[reverse.indices][0], names[-1])


@given(st.integers(1, 60), SEEDS, st.data())
def test_data_incremental_cuts_a_shuffled_whole(count, seed, data) -> None:
    contexts = data.draw(st.integers(1, count))
    order = by_share(count, contexts, seed)
    assert sorted(order.indices) == list(range(count))
    sizes = np.bincount(order.contexts)
    assert len(sizes) == contexts
    assert sizes.max() - sizes.min() <= 1


@given(LABELS, SEEDS, st.floats(0, 2))
def test_blurring_moves_samples_no_farther_than_it_says(groups, seed, width) -> None:
    order = by_group(groups)
    soft = blurred(order, width, seed)
    assert sorted(soft.indices) == sorted(order.indices)
    place = {index: i for i, index in enumerate(order.indices.tolist())}
    moved = np.array([abs(place[index] - i) for i, index in enumerate(soft.indices.tolist())])
    assert moved.max() <= 2 * width * len(order) / len(order.names) + 1
    np.testing.assert_array_equal(blurred(order, 0.0, seed).indices, order.indices)
    np.testing.assert_array_equal(blurred(order, width, seed).indices, soft.indices)


def test_neighbouring_contexts_overlap_where_they_are_blurred_and_distant_ones_do_not() -> None:
    soft = blurred(by_group(np.repeat([0, 1, 2, 3], 100)), 0.25, seed=1)
    near = soft.contexts[75:125]
    assert set(near.tolist()) == {0, 1}
    first, last = soft.contexts[:70], soft.contexts[330:]
    assert set(first.tolist()) == {0}
    assert set(last.tolist()) == {3}


@given(LABELS, SEEDS, st.floats(0.05, 1))
def test_irregular_contexts_keep_a_first_share_of_each(groups, seed, least) -> None:
    order, cut = by_group(groups), irregular(by_group(groups), least, seed)
    for context in range(len(order.names)):
        whole, kept = (o.indices[o.contexts == context] for o in (order, cut))
        assert len(kept) >= max(1, int(least * len(whole)))
        np.testing.assert_array_equal(kept, whole[: len(kept)])


@given(LABELS, st.integers(1, 4))
def test_contexts_recur_with_new_samples_and_repeat_with_the_same(groups, times) -> None:
    order = by_group(groups)
    back = recurring(order, times)
    assert sorted(back.indices) == sorted(order.indices)
    for context in range(len(order.names)):  # within a context nothing overtakes
        np.testing.assert_array_equal(back.indices[back.contexts == context], order.indices[order.contexts == context])
    np.testing.assert_array_equal(repeated(order, times).indices, np.tile(order.indices, times))


def test_recurring_contexts_by_hand() -> None:
    order = recurring(by_group(np.array([0, 0, 0, 1, 1, 1, 1])), 2)
    assert order.contexts.tolist() == [0, 0, 1, 1, 0, 1, 1]
    assert order.indices.tolist() == [0, 1, 3, 4, 2, 5, 6]
    assert order.ends().tolist() == [5, 7]
    assert limited(order, 2).indices.tolist() == [0, 1, 3, 4]


@given(LABELS, st.integers(1, 9))
def test_a_stream_reads_each_chunk_when_asked_and_nothing_ahead(groups, chunk) -> None:
    order = by_group(groups, seed=3)
    source = Recorder(len(groups))
    stream = Stream(source, order, chunk)
    assert source.read == []
    seen = 0
    for samples in stream:
        seen += len(samples)
        assert stream.position == seen == len(source.read)
        assert len(samples) == min(chunk, len(order) - (seen - len(samples)))
    assert source.read == order.indices.tolist()
    with pytest.raises(StopIteration):
        next(stream)


def test_budgets_by_hand() -> None:
    budget = Budget(chunk=32, steps=3, batch_size=64, memory_bytes=1000)
    assert budget.passes_per_sample == 6.0
    assert budget.total_steps(65) == 9  # a last chunk of one sample counts as a chunk
    assert budget.to_json()["passes_per_sample"] == 6.0
    with pytest.raises(ConfigError, match="chunk is 0"):
        Budget(chunk=0)


def test_what_makes_no_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 classes per context"):
        by_class(np.array([0, 1]), 3)
    with pytest.raises(ConfigError, match="group 7 has no samples"):
        by_group(np.array([0, 1]), sequence=[0, 7])
    with pytest.raises(ConfigError, match="give 1 to 2"):
        by_share(2, 3)
    with pytest.raises(ConfigError, match="least share 0"):
        irregular(by_group(np.array([0, 1])), 0)
    with pytest.raises(InputError, match="expected"):
        Order(np.arange(3), np.arange(2), ("a", "b"))
    with pytest.raises(ConfigError, match="chunk is 0"):
        Stream(Recorder(2), by_share(2, 1), 0)


@given(st.integers(1, 6), SEEDS)
def test_shards_are_a_partition_of_almost_equal_parts(clients, seed) -> None:
    labels = np.arange(60) % 4
    shards = skewed_shards(labels, clients, seed=seed)
    assert sorted(np.concatenate(shards).tolist()) == list(range(60))
    assert max(map(len, shards)) <= -(-60 // clients)
