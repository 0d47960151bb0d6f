"""Windowing: properties over random series, then the windows of a real one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.data.series import windows_of
from edgessl.data.source import Source
from edgessl.data.windows import majority, segments, window_count, window_starts
from edgessl.errors import ConfigError, DataError, InputError


@st.composite
def series(draw):
    rows = draw(st.integers(0, 80))
    groups = np.array(draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)), np.int64)
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 2, 5, -3]), min_size=rows, max_size=rows))
    valid = np.array(draw(st.lists(st.sampled_from([True] * 9 + [False]), min_size=rows, max_size=rows)), bool)
    return rows, np.sort(groups), np.cumsum(np.array(steps, float)), valid


@given(data=series(), window=st.integers(1, 12), stride=st.integers(1, 15))
@settings(max_examples=150, deadline=None)
def test_windows_cross_nothing_and_none_is_missed(data, window, stride):
    rows, groups, times, valid = data
    runs = segments(rows, groups=groups, times=times, max_gap=2.0, valid=valid)
    starts = window_starts(runs, window, stride)

    # By definition: row i + 1 continues row i if nothing below says otherwise.
    joined = [
        groups[i] == groups[i + 1] and 0 <= times[i + 1] - times[i] <= 2 and valid[i] and valid[i + 1]
        for i in range(rows - 1)
    ]

    def whole(start):
        return start + window <= rows and valid[start] and all(joined[start : start + window - 1])

    expected = []
    start = 0
    while start < rows:
        if whole(start):
            expected.append(start)
        # On a run's own grid: move by stride inside the run, else to the next run's first row.
        run_end = start
        while run_end < rows - 1 and joined[run_end]:
            run_end += 1
        start = start + stride if start + stride <= run_end else run_end + 1
    assert starts.tolist() == expected
    assert starts.dtype == np.int64
    assert len(starts) == sum(window_count(int(b - a), window, stride) for a, b in runs)


@given(rows=st.integers(0, 200), window=st.integers(1, 40), stride=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_window_count_counts_starts_in_range(rows, window, stride):
    expected = len([start for start in range(0, rows, stride) if start + window <= rows])
    assert window_count(rows, window, stride) == expected
    starts = window_starts(segments(rows), window, stride)
    assert len(starts) == expected
    assert all(start >= 0 and start + window <= rows for start in starts)


def test_segments_of_a_worked_example():
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    times = np.array([0.0, 1, 9, 10, 0, 1, 2, 1, 2, 3])
    valid = np.ones(10, bool)
    valid[5] = False
    runs = segments(10, groups=groups, times=times, max_gap=5, valid=valid)
    assert runs.tolist() == [[0, 2], [2, 4], [4, 5], [6, 7], [7, 9], [9, 10]]
    assert segments(10, times=times).tolist() == [[0, 4], [4, 7], [7, 10]]
    assert segments(3).tolist() == [[0, 3]]
    assert segments(0).shape == (0, 2)
    assert segments(2, valid=np.zeros(2, bool)).shape == (0, 2)


def test_a_gap_of_exactly_max_gap_does_not_cut():
    times = np.array([0.0, 2.0, 4.5])
    assert segments(3, times=times, max_gap=2.0).tolist() == [[0, 2], [2, 3]]


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match="window is 0"):
        window_starts(segments(5), 0, 1)
    with pytest.raises(ConfigError, match="stride is 0"):
        window_count(5, 1, 0)
    with pytest.raises(ConfigError, match="max_gap needs times"):
        segments(5, max_gap=1.0)
    with pytest.raises(InputError, match=r"groups has shape \(4,\)"):
        segments(5, groups=np.zeros(4))


@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    window=st.integers(1, 20),
    stride=st.integers(1, 10),
)
@settings(max_examples=100, deadline=None)
def test_majority_is_the_smallest_of_the_most_frequent_labels(labels, window, stride):
    rows = np.array(labels, np.int64)
    starts = window_starts(segments(len(rows)), window, stride)
    found, purity = majority(rows, starts, window)
    for start, label, share in zip(starts, found, purity, strict=True):
        values, counts = np.unique(rows[start : start + window], return_counts=True)
        assert label == values[counts.argmax()]
        assert share == counts.max() / window


def test_window_source_reads_scales_and_describes_each_window():
    rng = np.random.default_rng(0)
    x = rng.integers(-1000, 1000, (60, 2)).astype(np.int16)
    groups = np.repeat([4, 7], 30)
    source = windows_of(
        x,
        window=10,
        stride=5,
        scale=np.array([0.5, 0.25]),
        labels=np.repeat([0, 1, 2], 20),
        times=np.arange(60) / 10,
        groups=groups,
        units="g",
    )
    assert isinstance(source, Source)
    assert source.starts.tolist() == [0, 5, 10, 15, 20, 30, 35, 40, 45, 50]
    taken = source.take(np.array([3, 9, 3]))
    assert (taken.shape, taken.dtype, taken.flags.c_contiguous) == ((3, 2, 10), np.float32, True)
    np.testing.assert_array_equal(taken[0], (x[15:25] * [0.5, 0.25]).T)
    np.testing.assert_array_equal(taken[1], (x[50:60] * [0.5, 0.25]).T)
    np.testing.assert_array_equal(taken[2], taken[0])
    assert source.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert source.purity.tolist() == [1, 1, 1, 0.5, 1, 1, 0.5, 1, 1, 1]
    np.testing.assert_allclose(source.timestamps, source.starts / 10)
    assert source.groups.tolist() == [4] * 5 + [7] * 5


def test_a_series_too_short_or_of_the_wrong_form_is_refused():
    with pytest.raises(DataError, match="at most 5 follow each other") as caught:
        windows_of(np.zeros((10, 2)), window=6, groups=np.repeat([0, 1], 5), name="pump.csv")
    assert "pump.csv" in str(caught.value)
    with pytest.raises(DataError, match=r"expected numbers \(rows, channels\)"):
        windows_of(np.zeros(10), window=2)
    with pytest.raises(DataError, match="0 channels"):
        windows_of(np.zeros((10, 0)), window=2)


def test_a_nan_in_a_series_is_refused_when_it_is_taken():
    x = np.zeros((20, 1))
    x[13] = np.nan
    source = windows_of(x, window=5)
    source.take(np.array([0, 1, 3]))
    with pytest.raises(DataError, match="sample 2"):
        source.take(np.arange(4))
