"""Geometry, blur and erasing against scipy, torch's interpolate and numpy slices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from edgessl.errors import ConfigError, InputError
from edgessl.views.images import (
    Erase,
    GaussianBlur,
    HorizontalFlip,
    ResizedCrop,
    Rotation,
    Translate,
    erase,
    gaussian_blur,
    horizontal_flip,
    resized_crop,
    rotation,
    translate,
)

F64 = torch.float64


def box_noise(size: tuple[int, int], box: tuple[int, int], corner: tuple[int, int]):
    """Scale, ratio and position noise of the box of `box` pixels with its upper left at `corner`."""
    (height, width), (h, w) = size, box
    area, aspect = h * w / (height * width), (w / width) / (h / height)
    position = [c / (s - b) if s > b else 0.0 for s, b, c in zip(size, box, corner, strict=True)]
    return (area, area), (aspect, aspect), position


class TestResizedCrop:
    @pytest.mark.parametrize(
        ("size", "box", "corner"),
        [
            ((16, 16), (8, 8), (3, 5)),
            ((16, 16), (16, 16), (0, 0)),
            ((12, 20), (5, 13), (7, 0)),
            ((9, 7), (1, 3), (4, 4)),
            ((32, 24), (31, 23), (1, 1)),
        ],
    )
    def test_equals_interpolate_of_the_cut_out_region(self, draw, size, box, corner):
        scale, ratio, position = box_noise(size, box, corner)
        x = draw(2, 3, *size, dtype=F64)
        u = torch.tensor([[0.7, 0.2, *position]] * 2, dtype=F64)
        (top, left), (h, w) = corner, box
        region = x[:, :, top : top + h, left : left + w]
        expected = F.interpolate(region, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(resized_crop(x, u, scale=scale, ratio=ratio), expected, rtol=0, atol=1e-10)

    def test_nothing_outside_the_box_leaks_in(self, draw):
        scale, ratio, position = box_noise((16, 16), (6, 7), (2, 4))
        x = torch.full((1, 1, 16, 16), 1e6, dtype=F64)
        x[:, :, 2:8, 4:11] = draw(6, 7, dtype=F64)
        y = resized_crop(x, torch.tensor([[0, 0, *position]], dtype=F64), scale=scale, ratio=ratio)
        assert y.max() < 1 + 1e-6

    def test_area_is_uniform_in_scale(self, draw):
        # On a ramp, the distance between two output pixels is the box's side as a fraction of the image's.
        ramp = torch.arange(16, dtype=F64).expand(64, 1, 16, 16)
        u = draw(64, 4, dtype=F64)
        u[:, 1] = 0.5
        side = [
            resized_crop(x, u, scale=(0.3, 1.0), ratio=(0.75, 4 / 3)).diff(dim=axis).amax((1, 2, 3))
            for x, axis in ((ramp, 3), (ramp.transpose(2, 3), 2))
        ]
        torch.testing.assert_close(side[0] * side[1], 1 - 0.7 * u[:, 0], rtol=0, atol=1e-9)

    def test_ratio_is_width_over_height(self):
        ramp = torch.arange(16, dtype=F64).expand(1, 1, 16, 16)
        u = torch.tensor([[0, 0.3, 0.5, 0.5]], dtype=F64)
        across = resized_crop(ramp, u, scale=(0.25, 0.25), ratio=(2, 2)).diff(dim=3).max()
        assert across.item() == pytest.approx(math.sqrt(0.25 * 2))


class TestHorizontalFlip:
    def test_flips_below_p_only(self, draw):
        x = draw(2, 3, 5, 4)
        y = horizontal_flip(x, torch.tensor([[0.2999], [0.3]]), p=0.3)
        np.testing.assert_array_equal(y[0].numpy(), x[0].numpy()[:, :, ::-1])
        assert torch.equal(y[1], x[1])


class TestRotation:
    @pytest.mark.parametrize("size", [(16, 16), (9, 14), (2, 3)])
    @pytest.mark.parametrize("noise", [0.0, 0.31, 0.77, 0.999])
    def test_equals_scipy(self, draw, size, noise):
        x = draw(1, 2, *size, dtype=F64)
        angle = math.radians(70) * (2 * noise - 1)
        inverse = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        center = (np.array(size) - 1) / 2
        y = rotation(x, torch.tensor([[noise]], dtype=F64), degrees=70)
        for channel in range(2):
            expected = ndimage.affine_transform(
                x[0, channel].numpy(), inverse, center - inverse @ center, order=1, mode="nearest"
            )
            np.testing.assert_allclose(y[0, channel].numpy(), expected, rtol=0, atol=1e-10)

    def test_quarter_turn_is_counter_clockwise(self, draw):
        x = draw(1, 3, 8, 8, dtype=F64)
        y = rotation(x, torch.tensor([[0.75]], dtype=F64), degrees=180)
        torch.testing.assert_close(y, torch.rot90(x, 1, (2, 3)), rtol=0, atol=1e-12)

    def test_needs_two_pixels(self):
        with pytest.raises(InputError, match="2 x 2"):
            Rotation().width((1, 1, 9))


class TestTranslate:
    @pytest.mark.parametrize("noise", [(0.0, 0.9), (0.25, 0.5), (0.61, 0.37)])
    def test_equals_scipy(self, draw, noise):
        x = draw(1, 1, 10, 14, dtype=F64)
        y = translate(x, torch.tensor([noise], dtype=F64), fraction=0.4)
        move = [0.4 * size * (2 * v - 1) for size, v in zip((10, 14), noise, strict=True)]
        expected = ndimage.shift(x[0, 0].numpy(), move, order=1, mode="nearest")
        np.testing.assert_allclose(y[0, 0].numpy(), expected, rtol=0, atol=1e-10)

    def test_whole_pixels_move_down_and_right(self):
        x = torch.zeros(1, 1, 8, 8)
        x[0, 0, 3, 2] = 1
        y = translate(x, torch.tensor([[0.75, 1 - 2**-24]]), fraction=0.25)
        assert (y[0, 0] > 0.99).nonzero().tolist() == [[4, 4]]


class TestGaussianBlur:
    @pytest.mark.parametrize("noise", [0.0, 0.4, 0.95])
    def test_equals_scipy_renormalised_at_the_border(self, draw, noise):
        x = draw(1, 2, 11, 8, dtype=F64)
        y = gaussian_blur(x, torch.tensor([[0.0, noise]], dtype=F64), p=0.5, sigma=(0.3, 3.0))
        sigma = 0.3 + 2.7 * noise
        expected, weight = x.numpy(), np.ones(x.shape)
        for axis in (2, 3):
            options = {"sigma": sigma, "axis": axis, "mode": "constant", "truncate": 12 / sigma}
            expected = ndimage.gaussian_filter1d(expected, **options)
            weight = ndimage.gaussian_filter1d(weight, **options)
        np.testing.assert_allclose(y.numpy(), expected / weight, rtol=0, atol=1e-10)

    def test_keeps_a_constant_and_gates(self, draw):
        u = torch.tensor([[0.4, 0.9], [0.5, 0.9]])
        x = draw(2, 1, 6, 6)
        x[0] = 0.25
        y = gaussian_blur(x, u, p=0.5, sigma=(0.1, 2.0))
        torch.testing.assert_close(y, x, rtol=0, atol=1e-7)


class TestErase:
    @pytest.mark.parametrize("value", [None, 0.0, 0.75])
    def test_whole_pixel_box(self, draw, value):
        scale, ratio, position = box_noise((12, 15), (4, 6), (3, 7))
        x = draw(1, 3, 12, 15, dtype=F64)
        u = torch.tensor([[0.0, 0.2, 0.8, *position]], dtype=F64)
        expected = x.numpy().copy()
        fill = x.numpy().mean((2, 3), keepdims=True) if value is None else value
        expected[:, :, 3:7, 7:13] = fill
        y = erase(x, u, p=1.0, scale=scale, ratio=ratio, value=value)
        np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-10)

    def test_fractional_box_covers_its_area(self, draw):
        u = draw(50, 5, dtype=F64)
        y = erase(torch.zeros(50, 1, 16, 16, dtype=F64), u, p=1.0, scale=(0.05, 0.2), ratio=(0.5, 2), value=1.0)
        area = 0.05 + 0.15 * u[:, 1]
        torch.testing.assert_close(y.mean((1, 2, 3)), area, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: ResizedCrop(scale=(0.0, 1.0)), "scale"),
        (lambda: ResizedCrop(scale=(0.9, 0.2)), "scale"),
        (lambda: ResizedCrop(ratio=(1.0,)), "ratio"),
        (lambda: ResizedCrop(ratio=(0.5, math.nan)), "ratio"),
        (lambda: HorizontalFlip(p=1.5), "p"),
        (lambda: HorizontalFlip(p=True), "p"),
        (lambda: Rotation(degrees="ten"), "degrees"),
        (lambda: Translate(fraction=-0.1), "fraction"),
        (lambda: GaussianBlur(sigma=(0.0, 1.0)), "sigma"),
        (lambda: GaussianBlur(p=-0.1), "p"),
        (lambda: Erase(value=2), "value"),
        (lambda: Erase(scale=(0.1, 1.1)), "scale"),
    ],
)
def test_options_out_of_range(make, option):
    with pytest.raises(ConfigError, match=f"option '{option}'"):
        make()
