"""MNIST's idx files, and scikit-learn's digits."""

import gzip
import struct

import numpy as np
import pytest

from edgessl.data.digits import enlarge, open_digits
from edgessl.data.idx import open_idx, read_idx
from edgessl.errors import ConfigError, DataError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(x, code):
    return bytes([0, 0, CODES[code], x.ndim]) + struct.pack(f">{x.ndim}I", *x.shape) + x.astype(f">{code}").tobytes()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_type_is_read(tmp_path, code, zipped):
    x = np.random.default_rng(0).integers(0, 100, (5, 3, 4))
    path = tmp_path / ("a.idx.gz" if zipped else "a.idx")
    path.write_bytes(gzip.compress(idx_bytes(x, code)) if zipped else idx_bytes(x, code))
    found = read_idx(path)
    assert isinstance(found, np.memmap) is not zipped
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_images_find_their_labels_by_mnists_names(tmp_path, ending):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    pack = gzip.compress if ending else bytes
    images = tmp_path / f"t10k-images-idx3-ubyte{ending}"
    images.write_bytes(pack(idx_bytes(pixels, "u1")))
    assert open_idx(images).labels is None
    labels = tmp_path / f"t10k-labels-idx1-ubyte{ending}"
    labels.write_bytes(pack(idx_bytes(np.arange(6), "u1")))
    source = open_idx(images)
    assert (source.kind, source.shape, source.labels.tolist()) == ("image", (1, 28, 28), [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(source.take(np.arange(6))[:, 0], pixels.astype(np.float32) / 255)
    other = tmp_path / "other.idx"
    other.write_bytes(idx_bytes(np.arange(6)[::-1], "u1"))
    assert open_idx(images, labels=other).labels.tolist() == [5, 4, 3, 2, 1, 0]
    labels.write_bytes(pack(idx_bytes(np.arange(5), "u1")))
    with pytest.raises(DataError, match="expected 6 integers"):
        open_idx(images)


@pytest.mark.parametrize("ending", [".idx", ".gz"])
@pytest.mark.parametrize("how", ["cut", "long", "empty", "text", "header", "type", "huge", "none"])
def test_a_broken_file_is_named(tmp_path, ending, how):
    whole = idx_bytes(np.zeros((5, 3, 4)), "u1")
    data = {
        "cut": whole[:-1],
        "long": whole + b"\0",
        "empty": b"",
        "text": b"hello, world",
        "header": whole[:9],
        "type": b"\0\0\x07" + whole[3:],
        "huge": b"\0\0\x0e\x03" + b"\xff" * 12,
        "none": idx_bytes(np.zeros((0, 3)), "u1"),
    }[how]
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(data) if ending == ".gz" else data)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_damaged_gzip_and_an_absent_file_are_named(tmp_path):
    path = tmp_path / "a.gz"
    packed = gzip.compress(idx_bytes(np.zeros((5, 3, 4)), "u1"))
    for data in (packed[: len(packed) // 2], b"not gzip", packed[:15] + b"\xff\xff" + packed[17:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=str(path)):
            read_idx(path)
    with pytest.raises(DataError, match="absent"):
        read_idx(tmp_path / "absent.idx")


def test_enlarging_is_bilinear_with_half_pixel_centres():
    row = np.array([[[0.0, 1.0, 3.0]]])
    np.testing.assert_array_equal(enlarge(row, 2)[0, 0], [0, 0.25, 0.75, 1.5, 2.5, 3])
    images = np.random.default_rng(0).integers(0, 17, (3, 8, 8)) / 16
    np.testing.assert_array_equal(enlarge(images, 1), images)
    transposed = enlarge(images.transpose(0, 2, 1), 4).transpose(0, 2, 1)
    np.testing.assert_allclose(enlarge(images, 4), transposed, atol=1e-15)
    assert enlarge(np.ones((1, 8, 8)), 3) == pytest.approx(1.0)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarging_agrees_with_pillow(factor):
    pillow = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(1).random((8, 8)).astype(np.float32)
    reference = pillow.fromarray(image).resize((8 * factor,) * 2, pillow.Resampling.BILINEAR)
    np.testing.assert_allclose(enlarge(image[None], factor)[0], np.asarray(reference), atol=1e-6)


def test_digits_are_split_in_their_own_order():
    original = pytest.importorskip("sklearn.datasets").load_digits()
    train, test = open_digits("train", size=8), open_digits("test", size=8)
    assert (len(train), len(test), train.shape, train.kind) == (1200, 597, (1, 8, 8), "image")
    both = np.concatenate([train.take(np.arange(1200)), test.take(np.arange(597))])
    np.testing.assert_array_equal(both[:, 0] * 16, original.images)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), original.target)
    assert set(test.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("size", [16, 32])
def test_digits_of_other_sizes_are_exact_in_float32(size):
    pytest.importorskip("sklearn.datasets")
    small = open_digits("test", size=8).take(np.arange(20))[:, 0]
    taken = open_digits("test", size=size).take(np.arange(20))
    assert taken.shape == (20, 1, size, size)
    np.testing.assert_array_equal(taken[:, 0], enlarge(small, size // 8))
    assert taken.min() >= 0
    assert taken.max() <= 1
    assert open_digits("test").shape == (1, 16, 16)


def test_digits_of_odd_sizes_and_unknown_splits_are_refused():
    for size in (0, 4, 12, 28, -8):
        with pytest.raises(ConfigError, match="multiple of 8"):
            open_digits(size=size)
    with pytest.raises(ConfigError, match="'train' or 'test'"):
        open_digits("all")
