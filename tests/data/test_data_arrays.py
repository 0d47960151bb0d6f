""".npy and .npz files: layouts, scaling, memory mapping, refusals."""

import zipfile

import numpy as np
import pytest

from edgessl.data.arrays import array_source, open_array
from edgessl.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
EVERY = np.arange(4)


def saved(tmp_path, x, name="x.npy"):
    path = tmp_path / name
    np.save(path, x)
    return path


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "expected", "axes"),
    [
        ((4, 50), np.float32, "signal", (1, 50), None),
        ((4, 28, 28), np.uint8, "image", (1, 28, 28), None),
        ((4, 6, 128), np.float64, "signal", (6, 128), None),
        ((4, 128, 6), np.int16, "signal", (6, 128), (0, 2, 1)),
        ((4, 3, 9, 8), np.uint8, "image", (3, 9, 8), None),
        ((4, 9, 8, 3), np.uint8, "image", (3, 9, 8), (0, 3, 1, 2)),
        ((4, 9, 8, 1), np.float32, "image", (1, 9, 8), (0, 3, 1, 2)),
    ],
)
def test_kind_and_layout_are_inferred(tmp_path, shape, dtype, kind, expected, axes):
    x = RNG.integers(0, 256, shape).astype(dtype)
    if kind == "image" and dtype == np.float32:
        x /= 255
    source = open_array(saved(tmp_path, x))
    assert (source.kind, source.shape, len(source)) == (kind, expected, 4)
    taken = source.take(EVERY)
    assert taken.dtype == np.float32
    assert taken.flags.c_contiguous
    reference = (x if axes is None else x.transpose(axes)).reshape(4, *expected).astype(np.float64)
    if kind == "image" and dtype == np.uint8:
        reference /= 255
    np.testing.assert_allclose(taken, reference, rtol=1e-7)


def test_uint8_images_reach_exactly_zero_and_one():
    x = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    assert array_source(x, layout="channels_first").take(np.arange(2)).ravel().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [((4, 28, 28), np.float32, None), ((4, 3, 9, 3), np.uint8, None), ((4, 9, 9, 9), np.uint8, None),
     ((4, 20, 10), np.float32, None)],
)  # fmt: skip
def test_an_ambiguous_layout_is_refused_and_an_option_decides(tmp_path, shape, dtype, kind):
    path = saved(tmp_path, np.zeros(shape, dtype))
    with pytest.raises(DataError, match="cannot tell which axis") as caught:
        open_array(path, kind=kind)
    assert str(path) in str(caught.value)
    assert open_array(path, layout="channels_first").shape == shape[1:]
    assert open_array(path, layout="channels_last").shape == (shape[-1], *shape[1:-1])


def test_a_grey_float_image_and_a_spectrogram_are_named_by_kind():
    x = RNG.random((4, 28, 28))
    assert array_source(x, kind="image").shape == (1, 28, 28)
    assert array_source(x, kind="spectrogram").shape == (1, 28, 28)
    assert array_source(RNG.normal(size=(4, 2, 40, 50)), kind="spectrogram").shape == (2, 40, 50)


@pytest.mark.parametrize("layout", ["no_channels", "channels_first"])
def test_a_layout_that_does_not_fit_the_axes_is_refused(layout):
    shape = (4, 3, 8, 8) if layout == "no_channels" else (4, 8, 8)
    with pytest.raises(DataError, match="axes"):
        array_source(np.zeros(shape, np.uint8), kind="image", layout=layout)


def test_unknown_kind_layout_and_scale_are_refused():
    x = np.zeros((4, 10))
    with pytest.raises(ConfigError, match="expected one of image"):
        array_source(x, kind="picture")
    with pytest.raises(ConfigError, match="expected one of channels_first"):
        array_source(np.zeros((4, 3, 9, 9)), layout="NCHW")
    with pytest.raises(ConfigError, match="above 0"):
        array_source(x, full_scale=0)


def test_image_values_outside_zero_to_one_are_refused_with_the_way_out(tmp_path):
    path = saved(tmp_path, RNG.integers(0, 256, (4, 3, 9, 9)).astype(np.float32))
    with pytest.raises(DataError, match="full_scale=255") as caught:
        open_array(path).take(EVERY)
    assert str(path) in str(caught.value)
    assert open_array(path, full_scale=255).take(EVERY).max() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_value_that_is_not_finite_is_refused_and_its_sample_named(tmp_path, bad):
    x = np.zeros((4, 50))
    x[2, 7] = bad
    path = saved(tmp_path, x)
    source = open_array(path)
    assert source.take(np.array([0, 1, 3])).shape == (3, 1, 50)
    with pytest.raises(DataError, match="sample 2") as caught:
        source.take(np.array([3, 2]))
    assert str(path) in str(caught.value)


def test_a_npy_is_memory_mapped_and_taking_copies_only_what_is_asked(tmp_path):
    path = tmp_path / "large.npy"
    # 4 GB of zeros that take no room on disk: reading it whole would be noticed.
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(1 << 20, 64, 64))
    source = open_array(path)
    assert isinstance(source.x, np.memmap)
    assert len(source) == 1 << 20
    taken = source.take(np.array([0, (1 << 20) - 1]))
    assert taken.shape == (2, 1, 64, 64)
    assert type(taken) is np.ndarray
    assert taken.base is None
    taken += 1  # the caller's own
    path.unlink()


def test_big_endian_and_fortran_order_are_read_right(tmp_path):
    x = np.asfortranarray(RNG.normal(size=(4, 6, 50)).astype(">f8"))
    source = open_array(saved(tmp_path, x))
    np.testing.assert_allclose(source.take(EVERY), x, rtol=1e-6)


def test_npz_members_are_named_and_labels_found(tmp_path):
    x, y = RNG.random((4, 20)), np.array([3, 1, 2, 1], np.uint8)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=x, y=y, other=x + 1)
    source = open_array(path)
    assert source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.labels, y)
    np.testing.assert_allclose(open_array(path, x="other").take(EVERY)[:, 0], x + 1, rtol=1e-6)
    with pytest.raises(DataError, match="expected an array 'images', found other, x, y"):
        open_array(path, x="images")


def test_labels_beside_a_npy(tmp_path):
    path = saved(tmp_path, RNG.random((4, 20)))
    labels = saved(tmp_path, np.array([1, 0, 0, 1]), "labels.npy")
    assert open_array(path, labels=labels).labels.tolist() == [1, 0, 0, 1]
    assert open_array(path).labels is None
    short = saved(tmp_path, np.array([1, 0]), "short.npy")
    with pytest.raises(DataError, match="expected 4 integers"):
        open_array(path, labels=short)


def test_a_series_is_cut_into_windows(tmp_path):
    x = RNG.integers(-100, 100, (100, 3)).astype(np.int16)
    source = open_array(saved(tmp_path, x), window=16, stride=8, full_scale=32768, units="g")
    assert (source.kind, source.shape, source.units, len(source)) == ("signal", (3, 16), "g", 11)
    assert isinstance(source.series, np.memmap)
    np.testing.assert_array_equal(source.take(np.array([2]))[0], x[16:32].T.astype(np.float32) / 32768)
    with pytest.raises(ConfigError, match="leave kind and layout out"):
        open_array(tmp_path / "x.npy", window=16, kind="image")
    with pytest.raises(DataError, match="no window of 101 rows"):
        open_array(tmp_path / "x.npy", window=101)


def broken_files(tmp_path):
    whole = saved(tmp_path, np.zeros((40, 10)), "whole.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_bytes(b"hello, this is not an array")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    np.save(tmp_path / "scalar.npy", np.float32(3))
    np.save(tmp_path / "none.npy", np.zeros((0, 10)))
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "complex.npy", np.zeros((3, 4), complex))
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "whole.npz", x=np.zeros((40, 10)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-100])
    damaged = bytearray((tmp_path / "whole.npz").read_bytes())
    damaged[300] ^= 255
    (tmp_path / "damaged.npz").write_bytes(bytes(damaged))
    (tmp_path / "whole.npz").unlink()
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as file:
        file.writestr("x", b"no array")
    (tmp_path / "whole.npy").unlink()
    (tmp_path / "text.npz").write_bytes(b"hello")
    (tmp_path / "array.npz").write_bytes(whole)
    return [*sorted(tmp_path.iterdir()), tmp_path / "absent.npy", tmp_path / "absent.npz"]


def test_every_broken_file_is_refused_by_name(tmp_path):
    paths = broken_files(tmp_path)
    assert len(paths) == 16
    for path in paths:
        with pytest.raises(DataError) as caught:
            open_array(path)
        assert str(path) in str(caught.value)
