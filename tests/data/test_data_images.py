"""Image folders written by Pillow, whole and broken."""

import numpy as np
import pytest

from edgessl.data.images import open_images
from edgessl.data.source import Source
from edgessl.errors import ConfigError, DataError

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)


def rgb(height=12, width=10):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def test_a_folder_of_classes(tmp_path):
    cat = write(tmp_path / "cat" / "b.png", rgb())
    deep = write(tmp_path / "cat" / "more" / "a.PNG", rgb())
    ant = write(tmp_path / "ant" / "z.png", rgb())
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    write(tmp_path / "ant" / "._z.png", rgb())
    source = open_images(tmp_path)
    assert isinstance(source, Source)
    assert (source.kind, source.shape, source.units, len(source)) == (
        "image",
        (3, 12, 10),
        "intensity 0..1",
        3,
    )
    assert source.classes == ("ant", "cat")
    assert source.labels.tolist() == [0, 1, 1]
    taken = source.take(np.array([0, 1, 2]))
    assert (taken.dtype, taken.flags.c_contiguous) == (np.float32, True)
    expected = np.stack([ant, cat, deep]).transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(taken, expected)
    np.testing.assert_array_equal(source.take(np.array([2, 0])), expected[[2, 0]])


def test_a_flat_or_mixed_folder_has_no_labels(tmp_path):
    write(tmp_path / "a.png", rgb())
    assert open_images(tmp_path).labels is None
    write(tmp_path / "class" / "b.png", rgb())
    mixed = open_images(tmp_path)
    assert (mixed.labels, mixed.classes, len(mixed)) == (None, (), 2)


def test_grey_is_pillows_luma_and_resizing_stretches_bilinearly(tmp_path):
    pixels = write(tmp_path / "a.png", rgb())
    grey = open_images(tmp_path, channels=1).take(np.array([0]))
    luma = pixels @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(grey[0, 0], luma, atol=1 / 255)
    small = open_images(tmp_path, size=(6, 5)).take(np.array([0]))
    assert small.shape == (1, 3, 6, 5)
    # By an integer factor the antialiased bilinear filter keeps the mean, up to the borders and rounding.
    np.testing.assert_allclose(small.mean((2, 3))[0], pixels.mean((0, 1)) / 255, atol=0.03)
    assert open_images(tmp_path, size=8).shape == (3, 8, 8)


def test_a_constant_image_stays_constant_when_enlarged(tmp_path):
    write(tmp_path / "a.png", np.full((4, 4, 3), 51, np.uint8))
    np.testing.assert_array_equal(open_images(tmp_path, size=9).take(np.array([0])), np.float32(0.2))


def test_sixteen_bit_grey_keeps_its_depth(tmp_path):
    deep = RNG.integers(0, 65536, (6, 5)).astype(np.uint16)
    write(tmp_path / "a.png", deep)
    taken = open_images(tmp_path, channels=1).take(np.array([0]))
    np.testing.assert_array_equal(taken[0, 0], deep.astype(np.float32) / np.float32(65535))
    np.testing.assert_array_equal(open_images(tmp_path, channels=3).take(np.array([0]))[0, 2], taken[0, 0])


def test_palette_alpha_and_grey_files_become_rgb(tmp_path):
    image = Image.fromarray(np.full((4, 4, 3), [255, 0, 51], np.uint8))
    image.quantize(4).save(tmp_path / "a.gif")
    image.convert("RGBA").save(tmp_path / "b.png")
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "c.png")
    taken = open_images(tmp_path).take(np.arange(3))
    np.testing.assert_allclose(taken[:2, :, 0, 0], [[1, 0, 0.2]] * 2, atol=1e-6)
    np.testing.assert_allclose(taken[2, :, 0, 0], [0.2] * 3, atol=1e-6)


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    pixels = rgb(4, 6)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    source = open_images(tmp_path)
    assert source.shape == (3, 6, 4)
    taken = (source.take(np.array([0]))[0] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(taken.transpose(1, 2, 0), np.rot90(pixels, -1))


def test_another_size_is_refused_until_a_size_is_given(tmp_path):
    write(tmp_path / "a.png", rgb(12, 10))
    write(tmp_path / "b.png", rgb(10, 12))
    with pytest.raises(DataError, match="expected 12x10 pixels like the first image, found 10x12") as caught:
        open_images(tmp_path).take(np.array([0, 1]))
    assert str(tmp_path / "b.png") in str(caught.value)
    assert open_images(tmp_path, size=(12, 10)).take(np.array([0, 1])).shape == (2, 3, 12, 10)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".tif"])
def test_a_damaged_image_is_named_when_it_is_taken_and_the_others_still_read(tmp_path, suffix):
    write(tmp_path / f"a{suffix}", rgb(40, 40))
    write(tmp_path / f"b{suffix}", rgb(40, 40))
    data = (tmp_path / f"b{suffix}").read_bytes()
    source = open_images(tmp_path)
    for broken in (data[: len(data) // 2], data[:20], b"", b"not an image"):
        (tmp_path / f"b{suffix}").write_bytes(broken)
        assert source.take(np.array([0])).shape == (1, 3, 40, 40)
        with pytest.raises(DataError, match="cannot be decoded") as caught:
            source.take(np.array([1]))
        assert str(tmp_path / f"b{suffix}") in str(caught.value)


def test_float_pixels_and_too_deep_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="full scale"):
        open_images(tmp_path)
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="above 65535"):
        open_images(tmp_path)


def test_empty_and_absent_folders_and_wrong_options_are_refused(tmp_path):
    with pytest.raises(DataError, match="found no image") as caught:
        open_images(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match="found nothing"):
        open_images(tmp_path / "absent")
    write(tmp_path / "a.png", rgb())
    with pytest.raises(DataError, match="found a file"):
        open_images(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="channels is 2"):
        open_images(tmp_path, channels=2)
    with pytest.raises(ConfigError, match="size is 0x4"):
        open_images(tmp_path, size=(0, 4))
