"""The shared real data; each test skips where its file is absent."""

import hashlib
import shutil

import numpy as np
import pytest

from edgessl.data import channel_statistics, load_shared, load_tokens, open_source
from edgessl.data.shared import NAMES, data_file, data_folder
from edgessl.data.shared_images import decode_cifar, event_counts
from edgessl.data.shared_speech import MuLawClips, decode_mulaw
from edgessl.data.source import Source
from edgessl.errors import ConfigError, DataError


def present(stem):
    try:
        return data_file(stem)
    except DataError as error:
        pytest.skip(str(error))


def test_an_absent_folder_or_file_says_how_to_point_to_it(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESSL_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"EDGESSL_DATA=.*absent: no folder there"):
        load_shared("skab")
    monkeypatch.setenv("EDGESSL_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"skab\.npz: shared data absent; set EDGESSL_DATA"):
        load_shared("skab")
    monkeypatch.delenv("EDGESSL_DATA")
    (tmp_path / "repo").mkdir()
    monkeypatch.chdir(tmp_path / "repo")
    monkeypatch.setattr("edgessl.__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(DataError, match=r"shared data absent: looked in .* set EDGESSL_DATA"):
        load_tokens()


def test_the_folder_beside_the_working_one_is_found(tmp_path, monkeypatch):
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "repo").mkdir()
    monkeypatch.delenv("EDGESSL_DATA", raising=False)
    monkeypatch.chdir(tmp_path / "repo")
    assert data_folder() == tmp_path / "shared" / "data"


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ConfigError, match="no shared data set 'mnist'; expected one of fashion_mnist"):
        load_shared("mnist")
    with pytest.raises(ConfigError, match="'skab' has no option 'size'; its options are: window, stride"):
        load_shared("skab", size=3)
    with pytest.raises(ConfigError, match="no part 'valid'"):
        open_source("shared:skab:valid")


def test_a_damaged_file_is_refused_and_verify_compares_the_checksum(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESSL_DATA", str(tmp_path))
    path = tmp_path / "tinyshakespeare.npz"
    np.savez(path, text=np.frombuffer(b"To be", np.uint8))
    assert load_tokens().tobytes() == b"To be"
    with pytest.raises(DataError, match="SHA256SUMS: absent"):
        load_tokens(verify=True)
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    assert len(load_tokens(verify=True)) == 5
    sums.write_text(f"{'0' * 64}  {path.name}\n")
    with pytest.raises(DataError, match=rf"{path}: sha256 is"):
        load_tokens(verify=True)
    np.savez(path, words=np.zeros(3))
    with pytest.raises(DataError, match="expected an array 'text', found words"):
        load_tokens()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=str(path)):
        load_tokens()


def test_verify_accepts_the_real_file(tmp_path, monkeypatch):
    path = present("qtdb_ecg_spikes")
    shutil.copy(path, tmp_path)
    shutil.copy(path.with_name("SHA256SUMS"), tmp_path)
    monkeypatch.setenv("EDGESSL_DATA", str(tmp_path))
    assert len(load_shared("qtdb_ecg_spikes", verify=True).train) == 618


FACTS = [
    # name, file, kind, shape, train, test, number of classes
    ("skab", "skab", "signal", (8, 64), 292, 1108, 2),
    ("cwru_12k_de", "cwru_12k_de", "signal", (1, 1024), 590, 1593, 4),
    ("gas_drift", "gas_drift", "signal", (128, 1), 445, 6252, 6),
    ("qtdb_ecg_spikes", "qtdb_ecg_spikes", "signal", (4, 1301), 618, 141, 6),
    ("har_phone_watch", "har_phone_watch", "signal", (6, 128), 2564, 1150, 5),
    ("hapt", "hapt", "signal", (6, 128), 12400, 5053, 12),
    ("fsdd", "fsdd", "signal", (1, 8000), 2700, 300, 10),
]


@pytest.mark.parametrize(("name", "stem", "kind", "shape", "train", "test", "classes"), FACTS)
def test_facts_of_the_small_sets(name, stem, kind, shape, train, test, classes):
    present(stem)
    data = load_shared(name)
    assert (len(data.train), len(data.test), len(data.classes)) == (train, test, classes)
    for source, groups in ((data.train, data.train_groups), (data.test, data.test_groups)):
        assert isinstance(source, Source)
        assert (source.kind, source.shape) == (kind, shape)
        taken = source.take(np.array([0, len(source) - 1]))
        assert taken.shape == (2, *shape)
        assert taken.dtype == np.float32
        assert np.isfinite(taken).all()
        assert all(len(values) == len(source) for values in groups.values())
        if source.labels is not None:
            assert source.labels.dtype == np.int64
            assert -1 <= source.labels.min() <= source.labels.max() < classes


def test_the_names_are_all_known():
    assert {fact[0] for fact in FACTS} < set(NAMES)
    assert len(NAMES) == 14


@pytest.mark.parametrize("device", ["phone", "watch"])
def test_har_windows_stay_in_one_execution_of_one_subject(device):
    path = present("har_phone_watch")
    data = load_shared("har_phone_watch", device=device, window=256, stride=100, test_subjects=(3, 23))
    prefix = {"phone": "sp_", "watch": "sw_"}[device]
    with np.load(path) as raw:
        offsets, subject = raw[prefix + "offsets"].astype(int), raw[prefix + "subject"]
        x, y, scale = raw[prefix + "x"], raw[prefix + "y"], raw[prefix + "scale"]
    for source, groups, subjects in (
        (data.train, data.train_groups, set(range(1, 24)) - {3, 23}),
        (data.test, data.test_groups, {3, 23}),
    ):
        assert set(groups["subject"].tolist()) == subjects
        counts = [1 + (length - 256) // 100 for length in np.diff(offsets)]
        chosen = np.isin(subject, list(subjects))
        assert len(source) == sum(np.array(counts)[chosen])
        assert (groups["subject"] == subject[groups["recording"]]).all()
        # The second window of a recording starts 100 rows into it.
        place = int(np.flatnonzero(np.diff(groups["recording"]) == 0)[7])
        recording = groups["recording"][place]
        first = int(np.flatnonzero(groups["recording"] == recording)[0])
        rows = slice(offsets[recording] + 100, offsets[recording] + 356)
        expected = (x[rows] * scale).T
        np.testing.assert_allclose(source.take(np.array([first + 1]))[0], expected, rtol=1e-5)
        values, found = np.unique(y[rows], return_counts=True)
        assert source.labels[first + 1] == values[found.argmax()]
        assert groups["purity"][first + 1] == found.max() / 256


def test_the_phone_feels_gravity_once_in_metres_per_second_squared():
    present("har_phone_watch")
    source = load_shared("har_phone_watch").train
    seated = source.take(np.flatnonzero(source.labels == 0)[:100])
    length = np.linalg.norm(seated[:, :3], axis=1)
    assert np.median(length) == pytest.approx(9.81, rel=0.05)


def test_hapt_feels_gravity_once_in_g_and_knows_what_is_unlabelled():
    present("hapt")
    data = load_shared("hapt", stride=128)
    standing = data.train.take(np.flatnonzero(data.train.labels == data.classes.index("STANDING"))[:100])
    assert np.median(np.linalg.norm(standing[:, :3], axis=1)) == pytest.approx(1.0, rel=0.05)
    assert -1 in data.train.labels
    assert set(data.test_groups["user"].tolist()) == {2, 4, 9, 10, 12, 13, 18, 20, 24}
    assert not set(data.train_groups["user"].tolist()) & set(data.test_groups["user"].tolist())
    np.testing.assert_allclose(np.diff(data.train.timestamps[:5]), 128 / 50)


def test_skab_windows_do_not_span_the_gaps_of_its_clock():
    path = present("skab")
    data = load_shared("skab", window=32, stride=8)
    with np.load(path) as raw:
        t = raw["t"].astype(float)
    assert set(data.train.labels.tolist()) == {0}
    assert set(data.train_groups["recording"].tolist()) == {0}
    last = np.searchsorted(t[: len(t)], data.train.timestamps)  # recording 0 comes first and is sorted
    assert (t[last + 31] - data.train.timestamps < 32 * 2).all()
    coarse = load_shared("skab", window=32, stride=8, max_gap=1000.0)
    assert len(coarse.test) > len(data.test)


def test_gas_and_bearing_splits_can_be_moved():
    present("gas_drift")
    present("cwru_12k_de")
    gas = load_shared("gas_drift", train_batches=(1, 2))
    assert set(gas.train_groups["batch"].tolist()) == {1, 2}
    assert set(gas.test_groups["batch"].tolist()) == {3, 4, 5, 6, 8, 9}
    mean, std = channel_statistics(gas.train)
    whole = gas.train.take(np.arange(len(gas.train))).astype(np.float64)[:, :, 0]
    np.testing.assert_allclose(mean, whole.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(std, whole.std(axis=0), rtol=1e-9)
    with pytest.raises(ConfigError, match="leave one side empty"):
        load_shared("gas_drift", train_batches=(7,))
    bearings = load_shared("cwru_12k_de", train_loads=(0, 1, 2))
    assert set(bearings.test_groups["load_hp"].tolist()) == {3}
    with pytest.raises(ConfigError, match="on one side"):
        load_shared("cwru_12k_de", train_loads=(9,))


def test_qtdb_has_labels_per_step():
    path = present("qtdb_ecg_spikes")
    data = load_shared("qtdb_ecg_spikes")
    assert data.train.labels is None
    steps = data.test_groups["step_labels"]
    assert set(np.unique(steps).tolist()) == {-1, 0, 1, 2, 3, 4, 5}
    with np.load(path) as raw:
        np.testing.assert_array_equal(data.test.take(np.array([3]))[0], raw["x_test"][3].T)
        np.testing.assert_array_equal(steps == -1, raw["y_test"] == 255)


def test_speech_is_padded_cut_and_split_as_told():
    path = present("fsdd")
    data = load_shared("fsdd", window=3000)
    with np.load(path) as raw:
        offsets, mulaw, index = raw["offsets"].astype(int), raw["mulaw"], raw["index"]
    test = np.flatnonzero(index < 5)
    for place in (int(np.argmin(np.diff(offsets)[test])), int(np.argmax(np.diff(offsets)[test]))):
        clip = decode_mulaw(mulaw[offsets[test[place]] : offsets[test[place] + 1]])[:3000]
        expected = np.pad(clip, (0, 3000 - len(clip)))
        np.testing.assert_array_equal(data.test.take(np.array([place]))[0, 0], expected)
    mels = open_source("shared:fsdd:test", window=3000, n_mels=20, n_fft=256, hop=128)
    assert (mels.kind, mels.shape, len(mels)) == ("spectrogram", (1, 20, 22), 300)
    assert mels.labels.tolist() == data.test.labels.tolist()


def test_tokens_are_shakespeare():
    present("tinyshakespeare")
    tokens = load_tokens()
    assert tokens[:13].tobytes() == b"First Citizen"
    assert (tokens.dtype, len(tokens), len(np.unique(tokens))) == (np.uint8, 1115394, 65)


def test_mulaw_is_the_formula_at_every_byte():
    bytes_ = np.arange(256, dtype=np.uint8)
    v = bytes_ / 127.5 - 1
    np.testing.assert_allclose(decode_mulaw(bytes_), np.sign(v) * (256.0 ** np.abs(v) - 1) / 255, rtol=1e-6)
    assert decode_mulaw(bytes_)[[0, 255]].tolist() == [-1.0, 1.0]
    clips = MuLawClips(bytes_, np.array([0, 250]), np.array([250, 256]), (1, 10), np.zeros(2, np.int64))
    assert clips.take(np.array([1]))[0, 0, 5:].tolist() == [1.0, 0, 0, 0, 0]


def test_cifar_decoding_undoes_the_coding():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    planes = pixels.transpose(1, 0, 2, 3).copy()
    planes[0] -= planes[1]
    planes[2] -= planes[1]
    coded = np.diff(planes, axis=3, prepend=np.uint8(0))
    coded = np.diff(coded, axis=2, prepend=np.uint8(0))
    np.testing.assert_array_equal(decode_cifar(coded), pixels)


def test_event_counts_place_each_event():
    events = {
        "x": np.array([3, 3, 33], np.uint8),
        "y": np.array([5, 5, 0], np.uint8),
        "p": np.array([1, 1, 0], np.uint8),
        "offsets": np.array([0, 2, 2, 3], np.uint32),
    }
    expected = np.zeros((3, 2, 34, 34), int)
    expected[0, 1, 5, 3] = 2
    expected[2, 0, 0, 33] = 1
    np.testing.assert_array_equal(event_counts(events), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stem", "shape", "train", "test"),
    [
        ("fashion_mnist", "fashion_mnist", (1, 28, 28), 60000, 10000),
        ("cifar100_sub", "cifar100_sub", (3, 32, 32), 10000, 2000),
        ("nmnist_small", "nmnist_small", (2, 34, 34), 1000, 100),
        ("speech_commands", "speech_commands_v2_test_8k", (1, 8000), 3884, 1006),
    ],
)
def test_facts_of_the_large_sets(name, stem, shape, train, test):
    present(stem)
    data = load_shared(name, verify=True)
    assert (data.train.shape, len(data.train), len(data.test)) == (shape, train, test)
    assert len(data.classes) == len(set(data.train.labels.tolist())) == len(set(data.test.labels.tolist()))
    taken = data.test.take(np.arange(100))
    assert taken.shape == (100, *shape)
    if name == "cifar100_sub":
        # The published means of CIFAR-100.
        mean, _ = channel_statistics(data.train)
        np.testing.assert_allclose(mean, [0.507, 0.487, 0.441], atol=0.01)
    if name == "speech_commands":
        assert not set(data.train_groups["speaker"].tolist()) & set(data.test_groups["speaker"].tolist())
