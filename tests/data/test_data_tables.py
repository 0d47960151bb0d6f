"""CSV and Parquet tables written by pyarrow and by hand."""

import datetime
import gc
import os

import numpy as np
import pytest

from edgessl.data import table_stream
from edgessl.data.source import Source
from edgessl.data.tables import open_table
from edgessl.errors import ConfigError, DataError

arrow = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
parquet = pytest.importorskip("pyarrow.parquet")


def table(rows=100, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "t": np.arange(rows) * 0.5 + np.repeat([0.0, 100.0], [rows // 2, rows - rows // 2]),
        "x": rng.normal(size=rows),
        "y": rng.integers(-5, 5, rows),
        "state": np.where(np.arange(rows) % 40 < 20, "walk", "rest"),
        "device": np.repeat([f"d{i}" for i in (2, 0)], [rows - 30, 30]),
    }


def written(tmp_path, columns, form="csv", name="a"):
    path = tmp_path / f"{name}.{form}"
    found = arrow.table({key: arrow.array(values) for key, values in columns.items()})
    csv.write_csv(found, path) if form == "csv" else parquet.write_table(found, path, row_group_size=17)
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of a CSV and several batches of a Parquet file in every test."""
    monkeypatch.setattr(table_stream, "_BLOCK_BYTES", 512)
    monkeypatch.setattr(table_stream, "_BATCH_ROWS", 16)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_windows_of_a_table(tmp_path, form):
    columns = table()
    path = written(tmp_path, columns, form)
    source = open_table(path, window=10, stride=5, time="t", label="state", group="device", max_gap=1.0, units="g")
    assert isinstance(source, Source)
    assert (source.kind, source.shape, source.units) == ("signal", (2, 10), "g")
    # A gap of 100 s after row 49, another device from row 70.
    starts = [*range(0, 41, 5), *range(50, 61, 5), *range(70, 91, 5)]
    assert source.starts.tolist() == starts
    values = np.stack([columns["x"], columns["y"]], axis=1).astype(np.float32)
    expected = np.stack([values[s : s + 10].T for s in starts])
    np.testing.assert_array_equal(source.take(np.arange(len(starts))), expected)
    np.testing.assert_allclose(source.timestamps, columns["t"][starts])
    assert source.classes == ("rest", "walk")
    assert source.labels[:3].tolist() == [1, 1, 1]
    assert source.purity[:4].tolist() == [1, 1, 1, 0.5]
    assert source.group_names == ("d0", "d2")
    assert source.groups.tolist() == [1] * 12 + [0] * 5
    assert isinstance(source.series, np.memmap)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_columns_are_chosen_and_ordered_by_name(tmp_path, form):
    columns = table()
    source = open_table(written(tmp_path, columns, form), window=100, columns=["y", "x"])
    expected = np.stack([columns["y"], columns["x"]]).astype(np.float32)
    np.testing.assert_array_equal(source.take(np.array([0]))[0], expected)
    assert (source.labels, source.timestamps, source.groups) == (None, None, None)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_integer_labels_stay_what_they_are_and_empty_ones_are_unknown(tmp_path, form):
    labels = [7, 7, None, 30, 30, 30, None, None]
    path = written(tmp_path, {"x": np.zeros(8), "label": labels}, form)
    source = open_table(path, window=2, label="label")
    assert source.labels.tolist() == [7, -1, 30, -1]
    assert source.classes == ()


def test_types_are_not_pinned_by_the_first_block(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{i},{i},{i % 2}" for i in range(300)] + ["300.5,0.25,word", "301.5,,1"]
    path.write_text("\n".join(["t,x,label", *rows]))
    source = open_table(path, window=1, time="t", label="label", missing="split")
    assert len(source) == 301
    assert source.take(np.array([300])).item() == 0.25
    assert source.timestamps[300] == 300.5
    assert source.classes == ("0", "1", "word")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_dates_become_seconds_since_the_epoch(tmp_path, form):
    begin = datetime.datetime(2020, 3, 9, 10, 0, 0)
    times = [begin + datetime.timedelta(seconds=s) for s in (0, 1, 2, 60, 61.5)]
    source = open_table(written(tmp_path, {"t": times, "x": range(5)}, form), window=1, time="t")
    epoch = begin.replace(tzinfo=datetime.UTC).timestamp()
    np.testing.assert_allclose(source.timestamps - epoch, [0, 1, 2, 60, 61.5], atol=1e-6)
    zoned = tmp_path / "z.csv"
    zoned.write_text("t,x\n2020-03-09T10:00:00Z,1\n2020-03-09T10:00:01.25Z,2\n")
    np.testing.assert_allclose(open_table(zoned, window=1, time="t").timestamps - epoch, [0, 1.25], atol=1e-6)


def test_milliseconds_and_semicolons(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("t;x\n1000;1\n1010;2\n1500;3\n1510;4\n")
    source = open_table(path, window=2, time="t", time_scale=0.001, max_gap=0.1, delimiter=";")
    np.testing.assert_allclose(source.timestamps, [1.0, 1.5])
    with pytest.raises(DataError, match="expected one column 't', found 0; the columns are: t;x"):
        open_table(path, window=2, time="t")


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_missing_values_are_refused_or_split_the_windows(tmp_path, form, bad):
    x = [float(i) for i in range(60)]
    x[33] = bad
    path = written(tmp_path, {"x": x}, form)
    with pytest.raises(DataError, match=r"1 of 60 data rows .* the first is row 34") as caught:
        open_table(path, window=10)
    assert str(path) in str(caught.value)
    assert open_table(path, window=10, missing="split").starts.tolist() == [0, 10, 20, 34, 44]


def test_time_that_steps_back_is_refused_unless_a_group_explains_it(tmp_path):
    columns = {"t": [0.0, 1, 2, 0, 1, 2], "x": range(6), "run": [0, 0, 0, 1, 1, 1]}
    path = written(tmp_path, columns)
    with pytest.raises(DataError, match="steps back at data row 4") as caught:
        open_table(path, window=2, time="t", columns=["x"])
    assert str(path) in str(caught.value)
    assert open_table(path, window=2, time="t", group="run").starts.tolist() == [0, 3]


def wrong_tables(tmp_path):
    texts = {
        "empty": "",
        "header": "x,y\n",
        "ragged": "x,y\n1,2\n3\n",
        "word": "x,y\n1,2\n3,four\n",
        "late_word": "x,y\n" + "1,2\n" * 400 + "3,four\n",
        "twice": "x,x\n1,2\n",
        "binary": "\x00\x01\x02",
        "late_ragged": "x,y\n" + "1,2\n" * 400 + "3\n",
    }
    paths = []
    for name, text in texts.items():
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text(text)
    whole = written(tmp_path, {"x": np.arange(500.0)}, "parquet").read_bytes()
    damaged = bytearray(whole)
    damaged[: len(whole) // 2] = b"\xff" * (len(whole) // 2)
    for name, data in {
        "cut": whole[:-50],
        "none": b"",
        "text": b"x,y\n1,2\n",
        "damaged": bytes(damaged),
    }.items():
        paths.append(tmp_path / f"{name}.parquet")
        paths[-1].write_bytes(data)
    paths.append(written(tmp_path, {"x": ["a", "b"]}, "parquet", "words"))
    return [*paths, tmp_path / "absent.csv"]


def test_every_broken_table_is_refused_by_name(tmp_path):
    paths = wrong_tables(tmp_path)
    assert len(paths) == 14
    for path in paths:
        with pytest.raises(DataError) as caught:
            open_table(path, window=1)
        assert str(path) in str(caught.value)


def test_columns_that_cannot_serve_are_refused(tmp_path):
    path = written(tmp_path, table())
    with pytest.raises(DataError, match="expected one column 'z', found 0; the columns are: t, x, y"):
        open_table(path, window=2, columns=["x", "z"])
    with pytest.raises(DataError, match="'state' is string"):
        open_table(path, window=2)
    with pytest.raises(DataError, match="time column 'state' is string"):
        open_table(path, window=2, time="state", columns=["x"])
    gaps = written(tmp_path, {"t": [0.0, None, 2.0], "g": ["a", "", "a"], "x": [1, 2, 3]}, name="gaps")
    with pytest.raises(DataError, match="time column 't' is empty or not finite in data row 2"):
        open_table(gaps, window=1, time="t", columns=["x"])
    with pytest.raises(DataError, match="column 'g' is empty in data row 2"):
        open_table(gaps, window=1, group="g", columns=["x"])
    only = written(tmp_path, {"t": [0.0, 1.0]}, name="only")
    with pytest.raises(DataError, match="no column is left for the channels"):
        open_table(only, window=1, time="t")


def test_options_that_cannot_work_are_refused(tmp_path):
    path = written(tmp_path, {"x": np.zeros(10)})
    with pytest.raises(ConfigError, match="max_gap needs the name of the time column"):
        open_table(path, window=2, max_gap=1.0)
    with pytest.raises(ConfigError, match="expected one character"):
        open_table(path, window=2, delimiter="::")
    with pytest.raises(ConfigError, match="number above 0"):
        open_table(path, window=2, time_scale=0)
    dates = written(tmp_path, {"t": [datetime.datetime(2020, 1, 1)] * 3, "x": range(3)}, name="dates")
    with pytest.raises(ConfigError, match="holds dates"):
        open_table(dates, window=2, time="t", time_scale=0.001)
    with pytest.raises(ConfigError, match="'refuse' or 'split'"):
        open_table(path, window=2, missing="drop")
    with pytest.raises(DataError, match="no window of 11 rows fits"):
        open_table(path, window=11)


def test_the_cache_is_used_again_and_made_anew_when_the_table_or_the_choice_changes(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    columns = table()
    path = written(tmp_path, columns)
    options = {"window": 10, "time": "t", "label": "state", "group": "device", "cache_dir": cache}
    conversions = []
    convert = table_stream.convert
    monkeypatch.setattr("edgessl.data.tables.convert", lambda *given: (conversions.append(given), convert(*given))[1])
    first = open_table(path, **options)
    again = open_table(path, **(options | {"window": 20, "missing": "split"}))
    assert len(conversions) == 1
    same = open_table(path, **options)
    np.testing.assert_array_equal(same.take(np.arange(len(same))), first.take(np.arange(len(first))))
    for name in ("labels", "purity", "timestamps", "groups", "starts"):
        np.testing.assert_array_equal(getattr(same, name), getattr(first, name))
    assert (same.classes, same.group_names) == (first.classes, first.group_names)
    assert again.shape == (2, 20)
    open_table(path, window=10, columns=["x"], cache_dir=cache)
    assert len(conversions) == 2
    written(tmp_path, {**columns, "x": columns["x"] + 1})
    os.utime(path, ns=(1, 1))
    changed = open_table(path, **options)
    assert len(conversions) == 3
    np.testing.assert_allclose(
        changed.take(np.array([0]))[0, 0], first.take(np.array([0]))[0, 0] + 1, rtol=1e-6, atol=1e-6
    )
    for file in cache.glob("*.f32"):
        file.write_bytes(file.read_bytes()[:-4])  # a cache that was cut short is not believed
    np.testing.assert_array_equal(
        open_table(path, **options).take(np.array([0]))[0, 1], columns["y"][:10].astype(np.float32)
    )
    assert len(conversions) == 4
    assert not [name for name in os.listdir(cache) if name.startswith(".")]


def test_a_failed_conversion_leaves_nothing_in_the_cache(tmp_path):
    cache = tmp_path / "cache"
    path = tmp_path / "a.csv"
    path.write_text("x\n" + "1\n" * 500 + "word\n")
    with pytest.raises(DataError):
        open_table(path, window=1, cache_dir=cache)
    assert os.listdir(cache) == []


def test_without_a_cache_folder_nothing_stays_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    source = open_table(written(tmp_path, {"x": np.arange(50.0)}), window=5)
    gc.collect()
    assert os.listdir(tmp_path / "temporary") == []
    assert source.take(np.array([9]))[0, 0].tolist() == [45, 46, 47, 48, 49]
