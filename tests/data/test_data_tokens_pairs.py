"""Windows of text, pairs of modalities, and the shared data of both kinds against the raw files."""

import numpy as np
import pytest

from edgessl.data import (
    PairedSource,
    Source,
    Subset,
    TokenSource,
    array_source,
    channel_statistics,
    content_hash,
    load_shared,
    load_tokens,
    open_source,
    open_text,
    sides,
    token_windows,
    vocabulary_of,
)
from edgessl.data.shared import data_file
from edgessl.errors import ConfigError, DataError, InputError
from edgessl.pretrain import input_spec


def present(stem):
    try:
        return data_file(stem)
    except DataError as error:
        pytest.skip(str(error))


def signals(n, shape, seed=0):
    x = np.random.default_rng(seed).normal(3, 2, (n, *shape)).astype(np.float32)
    return array_source(x, kind="signal", layout="channels_first", labels=np.arange(n) % 3, units="g")


def test_windows_of_ids():
    source = token_windows(np.arange(23) % 7, window=5, vocabulary=7, stride=4, symbols=tuple("abcdefg"))
    assert isinstance(source, TokenSource)
    assert (source.kind, source.shape, len(source), source.units) == ("tokens", (1, 5), 5, "ids of 7 symbols")
    taken = source.take(np.array([0, 4]))
    assert taken.dtype == np.float32
    assert taken.tolist() == [[[0, 1, 2, 3, 4]], [[2, 3, 4, 5, 6]]]
    assert len(token_windows(np.arange(23) % 7, window=5, vocabulary=7)) == 4
    with pytest.raises(InputError, match="index 5 is outside"):
        source.take(np.array([5]))


@pytest.mark.parametrize(
    ("ids", "options", "error", "message"),
    [
        (np.arange(9), {"vocabulary": 8}, DataError, "ids run from 0 to 8; expected 0 to 7"),
        (np.arange(-1, 9), {"vocabulary": 9}, DataError, "ids run from -1"),
        (np.arange(9.0), {"vocabulary": 9}, DataError, "found float64"),
        (np.zeros((3, 3), int), {"vocabulary": 9}, DataError, r"of shape \(3, 3\)"),
        (np.arange(3), {"vocabulary": 9}, DataError, "expected 4 or more integer ids"),
        (np.zeros(9, int), {"vocabulary": 1}, ConfigError, "vocabulary is 1; give 2 to 16777216"),
        (np.arange(9), {"vocabulary": 9, "stride": 0}, ConfigError, "stride is 0"),
    ],
)
def test_other_ids_are_refused(ids, options, error, message):
    with pytest.raises(error, match=message):
        token_windows(ids, window=4, **options)


def test_a_text_file_is_its_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Grüße, Welt", encoding="utf-8")
    source = open_source(path, window=4)
    assert (vocabulary_of(source), len(source)) == (256, 3)
    assert bytes(source.take(np.arange(3)).astype(np.uint8).ravel()) == path.read_bytes()[:12]
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read"):
        open_text(tmp_path / "absent.txt")


def test_tokens_are_not_normalised_and_say_their_vocabulary():
    source = token_windows(np.arange(40) % 9, window=4, vocabulary=9)
    spec = input_spec(Subset(source, np.arange(3)))
    assert (spec.kind, spec.mean, spec.std, spec.vocabulary) == ("tokens", (0.0,), (1.0,), 9)
    assert vocabulary_of(signals(3, (2, 8))) == 0

    class Nameless:
        kind, shape, units, labels, timestamps = "tokens", (1, 4), "", None, None

    with pytest.raises(DataError, match="has to say its vocabulary; Nameless"):
        vocabulary_of(Nameless())


def test_a_pair_is_both_samples_flattened():
    first, second = signals(5, (2, 3)), signals(5, (1, 4), seed=1)
    pair = PairedSource(first, second)
    assert isinstance(pair, Source)
    assert (pair.kind, pair.shape, pair.units, len(pair)) == ("pair", (10,), "g | g", 5)
    taken = pair.take(np.array([3, 0]))
    np.testing.assert_array_equal(taken[:, :6].reshape(2, 2, 3), first.take(np.array([3, 0])))
    np.testing.assert_array_equal(taken[:, 6:].reshape(2, 1, 4), second.take(np.array([3, 0])))
    assert taken.flags["C_CONTIGUOUS"]
    assert content_hash(pair) != content_hash(PairedSource(second, first))
    with pytest.raises(DataError, match="5 samples on one side, 4 on the other"):
        PairedSource(first, Subset(second, np.arange(4)))


def test_labels_of_a_pair():
    x = np.zeros((3, 1, 4), np.float32)
    a, b = (array_source(x, kind="signal", labels=np.array(labels)) for labels in ([0, 1, 2], [0, 2, 2]))
    none = array_source(x, kind="signal")
    assert PairedSource(a, b).labels.tolist() == [0, -1, 2]
    assert PairedSource(none, b).labels.tolist() == [0, 2, 2]
    assert PairedSource(none, none).labels is None


def test_statistics_of_a_pair_are_those_of_its_sides():
    first, second = signals(9, (2, 3)), signals(9, (1, 4), seed=1)
    chosen = np.array([1, 2, 5])
    mean, std = channel_statistics(Subset(Subset(PairedSource(first, second), np.arange(8)), chosen))
    x, y = first.take(chosen).astype(float), second.take(chosen).astype(float)
    np.testing.assert_allclose(mean, np.r_[np.repeat(x.mean((0, 2)), 3), np.repeat(y.mean(), 4)])
    np.testing.assert_allclose(std, np.r_[np.repeat(x.std((0, 2)), 3), np.repeat(y.std(), 4)])
    left, right = sides(Subset(PairedSource(first, second), chosen))
    np.testing.assert_array_equal(left.take(np.arange(3)), first.take(chosen))
    np.testing.assert_array_equal(right.take(np.arange(3)), second.take(chosen))
    with pytest.raises(DataError, match="found ArraySource"):
        sides(first)


def test_tinyshakespeare_is_the_text():
    present("tinyshakespeare")
    data = load_shared("tinyshakespeare", window=50, stride=25)
    text = load_tokens().tobytes().decode("ascii")
    symbols = sorted(set(text))
    assert len(symbols) == 65 == vocabulary_of(data.train)
    cut = int(0.9 * len(text))
    assert len(data.train) == 1 + (cut - 50) // 25
    for source, part in ((data.train, text[:cut]), (data.test, text[cut:])):
        assert isinstance(source, TokenSource)
        assert source.labels is None
        for index in (0, 7, len(source) - 1):
            ids = source.take(np.array([index]))[0, 0]
            assert "".join(symbols[int(i)] for i in ids) == part[25 * index : 25 * index + 50]
    assert data.train.symbols == tuple(symbols)
    with pytest.raises(ConfigError, match="test_share is 1"):
        load_shared("tinyshakespeare", test_share=1)


def test_phone_and_watch_windows_are_of_the_same_moment():
    path = present("har_phone_watch")
    data = load_shared("phone_watch_pairs", window=100, stride=80, test_subjects=(2, 5))
    with np.load(path) as raw:
        found = {name: raw[name] for name in raw.files}
    for source, groups, subjects in (
        (data.train, data.train_groups, set(range(1, 24)) - {2, 5}),
        (data.test, data.test_groups, {2, 5}),
    ):
        assert set(groups["subject"].tolist()) == subjects
        assert groups["skew"].max() <= 0.1
        for index in (0, len(source) // 2, len(source) - 1):
            sample = source.take(np.array([index]))[0].reshape(2, 6, 100)
            recording = groups["recording"][index]
            times = []
            for side, prefix in zip(sample, ("sp_", "sw_"), strict=True):
                start, stop = found[prefix + "offsets"][recording : recording + 2].astype(int)
                assert found[prefix + "subject"][recording] == groups["subject"][index]
                rows = (found[prefix + "x"][start:stop] * found[prefix + "scale"]).astype(np.float32)
                (place,) = [
                    i for i in range(len(rows) - 99) if np.allclose(rows[i : i + 100], side.T, rtol=1e-5, atol=1e-6)
                ]
                times.append(found[prefix + "t_ms"][start:stop][[place, place + 99]] / 1000)
            gaps = np.abs(times[0] - times[1])
            assert gaps.max() == pytest.approx(groups["skew"][index], abs=1e-9)
            # no other window of the watch starts nearer
            start, stop = found["sw_offsets"][recording : recording + 2].astype(int)
            clock = found["sw_t_ms"][start : stop - 99] / 1000
            assert gaps[0] == pytest.approx(np.abs(clock - times[0][0]).min(), abs=1e-9)
    # nearly all of the phone's windows have a partner, and the two devices' labels hardly ever differ
    whole = load_shared("har_phone_watch", window=100, stride=80, test_subjects=(2, 5))
    assert len(data.train) > 0.98 * len(whole.train)
    assert (data.train.labels >= 0).mean() > 0.95
    with pytest.raises(ConfigError, match="no two windows lie within -1 s"):
        load_shared("phone_watch_pairs", max_skew=-1)


def test_digits_are_paired_by_their_label_and_say_so():
    present("fsdd")
    pytest.importorskip("sklearn")
    data = load_shared("digit_pairs_by_label")
    for source in (data.train, data.test):
        image, sound = sides(source)
        assert (image.shape, sound.shape, source.shape) == ((1, 8, 8), (1, 20, 30), (664,))
        assert (image.labels == sound.labels).all()
        assert (source.labels >= 0).all()
    again = load_shared("digit_pairs_by_label")
    np.testing.assert_array_equal(data.test.take(np.arange(5)), again.test.take(np.arange(5)))
