"""The Source protocol and the functions over any source."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.data.arrays import array_source
from edgessl.data.source import (
    Source,
    Subset,
    batches,
    channel_statistics,
    checked_indices,
    content_hash,
    epoch_order,
)
from edgessl.errors import DataError, InputError


def signals(n=50, channels=3, length=7, seed=0):
    x = np.random.default_rng(seed).normal(5.0, 2.0, (n, channels, length))
    return array_source(x, kind="signal", layout="channels_first", labels=np.arange(n) % 4)


def test_an_array_source_and_a_subset_satisfy_the_protocol():
    source = signals()
    assert isinstance(source, Source)
    assert isinstance(Subset(source, np.array([1, 2])), Source)


def test_subset_takes_the_samples_and_labels_it_names_in_its_order():
    source = signals()
    subset = Subset(source, np.array([9, 3, 9]))
    assert len(subset) == 3
    np.testing.assert_array_equal(subset.take(np.array([1, 0])), source.take(np.array([3, 9])))
    np.testing.assert_array_equal(subset.labels, [9 % 4, 3 % 4, 9 % 4])
    assert (subset.kind, subset.shape, subset.units) == (source.kind, source.shape, source.units)
    assert subset.timestamps is None
    nested = Subset(subset, np.array([1]))
    np.testing.assert_array_equal(nested.take(np.array([0])), source.take(np.array([3])))


def test_subset_refuses_an_index_outside_its_source():
    with pytest.raises(InputError, match=r"50 is outside 0\.\.49"):
        Subset(signals(), np.array([0, 50]))
    with pytest.raises(InputError, match=r"3 is outside 0\.\.2"):
        Subset(signals(), np.arange(3)).take(np.array([3]))


@pytest.mark.parametrize(
    "wrong", [np.array([-1]), np.array([[0]]), np.array([0.0]), np.array([True]), np.array(3), np.array([5])]
)
def test_indices_that_are_no_vector_of_integers_in_range_are_refused(wrong):
    with pytest.raises(InputError):
        checked_indices(wrong, 5)


def test_an_empty_list_of_indices_gives_an_empty_batch():
    taken = signals().take(np.array([]))
    assert taken.shape == (0, 3, 7)
    assert taken.dtype == np.float32


@pytest.mark.parametrize("size", [1, 7, 50, 64])
def test_batches_cover_every_sample_once_in_order(size):
    source = signals()
    parts = list(batches(source, size))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    np.testing.assert_array_equal(np.concatenate(parts), source.take(np.arange(50)))


def test_batches_refuse_size_zero():
    with pytest.raises(InputError):
        next(batches(signals(), 0))


@given(n=st.integers(0, 200), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_epoch_order_is_a_permutation_and_depends_on_nothing_else(n, seed, epoch):
    order = epoch_order(n, seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.random.default_rng(99).permutation(5)
    np.testing.assert_array_equal(order, epoch_order(n, seed, epoch))


def test_epoch_orders_differ_by_seed_and_by_epoch():
    first = epoch_order(1000, 1, 0)
    assert not np.array_equal(first, epoch_order(1000, 1, 1))
    assert not np.array_equal(first, epoch_order(1000, 2, 0))


@pytest.mark.parametrize("step", [1, 2**21])
def test_statistics_equal_numpys_over_the_whole_array(monkeypatch, step):
    monkeypatch.setattr("edgessl.data.source._STATISTICS_VALUES", step)
    source = signals(n=301)
    whole = source.take(np.arange(301)).astype(np.float64)
    mean, std = channel_statistics(source)
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose(mean, whole.mean(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, whole.std(axis=(0, 2)), rtol=1e-12)


def test_statistics_survive_a_mean_far_larger_than_the_spread():
    x = (1e6 + np.random.default_rng(0).integers(0, 64, (400, 1, 5))).astype(np.float32)
    mean, std = channel_statistics(array_source(x, kind="signal", layout="channels_first"))
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(), rtol=1e-12)
    np.testing.assert_allclose(std, x.astype(np.float64).std(), rtol=1e-9)


def test_statistics_of_a_part_read_only_that_part():
    source = signals(n=1000)
    read = []
    take = type(source).take

    class Watched:
        kind, shape, units, labels, timestamps = "signal", source.shape, "", None, None

        def __len__(self):
            return 1000

        def take(self, indices):
            read.extend(indices.tolist())
            return take(source, indices)

    mean, _ = channel_statistics(Watched(), limit=100, seed=3)
    assert len(read) == len(set(read)) == 100
    np.testing.assert_allclose(mean, source.take(np.array(read)).astype(float).mean(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_array_equal(mean, channel_statistics(source, limit=100, seed=3)[0])
    assert not np.array_equal(mean, channel_statistics(source, limit=100, seed=4)[0])


@pytest.mark.parametrize("value", [0.0, 0.1, -9.81, 1e6])
def test_a_constant_channel_gets_std_one(value):
    x = np.random.default_rng(0).normal(size=(40, 2, 6))
    x[:, 1] = value
    mean, std = channel_statistics(array_source(x, kind="signal", layout="channels_first"))
    assert std[1] == 1.0
    assert mean[1] == pytest.approx(np.float32(value))
    assert 0.8 < std[0] < 1.2


def test_a_channel_of_tiny_values_keeps_its_own_scale():
    x = 1e-9 * np.random.default_rng(0).normal(size=(200, 1, 6))
    _, std = channel_statistics(array_source(x, kind="signal", layout="channels_first"))
    assert std[0] == pytest.approx(1e-9, rel=0.1)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(DataError, match="the source has 0"):
        channel_statistics(Subset(signals(), np.array([], np.int64)))


def test_content_hash_is_of_the_facts_and_the_little_endian_samples():
    source = signals(n=3)
    digest = hashlib.sha256(b"signal (3, 7) as stored 3")
    digest.update(source.take(np.arange(3)).astype("<f4").tobytes())
    assert content_hash(source) == digest.hexdigest()


def test_content_hash_sees_samples_and_order_and_not_labels():
    x = np.random.default_rng(0).normal(size=(20, 1, 64))
    plain = content_hash(array_source(x))
    assert plain == content_hash(array_source(x, labels=np.zeros(20, int)))
    assert plain != content_hash(array_source(x[::-1]))
    changed = x.copy()
    changed[-1, 0, 0] += 1
    assert plain != content_hash(array_source(changed))
    assert plain != content_hash(array_source(x[:19]))


def test_content_hash_reads_at_most_limit_samples_and_the_ends():
    x = np.zeros((1000, 1, 64))
    x[500] = 1  # not among the 2 that are read
    ends = content_hash(array_source(x), limit=2)
    assert ends == content_hash(array_source(np.zeros((1000, 1, 64))), limit=2)
    x[999] = 1
    assert ends != content_hash(array_source(x), limit=2)
