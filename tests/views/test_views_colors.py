"""Colour operations against Pillow, the NTSC matrices and the standard library's colorsys."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from edgessl.errors import ConfigError, InputError
from edgessl.views.colors import (
    ColorJitter,
    Grayscale,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    grayscale,
    luma,
)

F64 = torch.float64
# Pillow rounds to 8 bits, its mean luma too.
EIGHT_BITS = 2.5 / 255


@pytest.fixture
def picture(draw):
    """A random colour picture as Pillow sees it, and as a batch of one."""
    # Tinted, so that the mean of the luma is not the mean of the channels.
    pixels = (draw(9, 11, 3) * torch.tensor([250.0, 150.0, 60.0])).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy()), pixels.permute(2, 0, 1)[None].to(F64) / 255


@pytest.mark.parametrize(
    ("adjust", "enhance"),
    [
        (adjust_brightness, ImageEnhance.Brightness),
        (adjust_contrast, ImageEnhance.Contrast),
        (adjust_saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.3, 0.85])
def test_factors_follow_pillow(picture, adjust, enhance, noise):
    image, x = picture
    factor = 1 + 0.8 * (2 * noise - 1)
    expected = np.asarray(enhance(image).enhance(factor)).transpose(2, 0, 1) / 255
    y = adjust(x, torch.tensor([[noise]], dtype=F64), strength=0.8)
    np.testing.assert_allclose(y[0].numpy(), expected, rtol=0, atol=EIGHT_BITS)


def test_grayscale_follows_pillow(picture):
    image, x = picture
    expected = np.asarray(image.convert("L")) / 255
    y = grayscale(x, torch.tensor([[0.0]], dtype=F64), p=0.5)
    for channel in range(3):
        np.testing.assert_allclose(y[0, channel].numpy(), expected, rtol=0, atol=0.6 / 255)


class TestHue:
    def test_equals_a_rotation_in_yiq(self, draw):
        to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
        x = 0.4 + 0.2 * draw(1, 3, 4, 5, dtype=F64)
        angle = 2 * math.pi * 0.3 * (2 * 0.9 - 1)
        c, s = math.cos(angle), math.sin(angle)
        matrix = np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ to_yiq
        expected = np.einsum("ij,jhw->ihw", matrix, x[0].numpy())
        y = adjust_hue(x, torch.tensor([[0.9]], dtype=F64), strength=0.3)
        np.testing.assert_allclose(y[0].numpy(), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(luma(y), luma(x), rtol=0, atol=1e-12)

    def test_half_a_turn_makes_the_complement(self):
        # colorsys rounds the NTSC coefficients to two digits.
        x = torch.tensor([0.55, 0.45, 0.5], dtype=F64)
        y = adjust_hue(x.reshape(1, 3, 1, 1), torch.tensor([[0.0]], dtype=F64), strength=0.5).flatten()
        luminance, i, q = colorsys.rgb_to_yiq(*x.tolist())
        assert y.tolist() == pytest.approx(colorsys.yiq_to_rgb(luminance, -i, -q), abs=2e-3)

    def test_grey_has_no_hue(self):
        x = torch.full((1, 3, 2, 2), 0.3, dtype=F64)
        y = adjust_hue(x, torch.tensor([[0.1]], dtype=F64), strength=0.5)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-12)


class TestColorJitter:
    def test_order_is_brightness_contrast_saturation_hue(self, draw):
        x, u = draw(4, 3, 5, 5, dtype=F64), draw(4, 5, seed=1, dtype=F64)
        y = adjust_brightness(x, u[:, 1:2], strength=0.4)
        y = adjust_contrast(y, u[:, 2:3], strength=0.3)
        y = adjust_saturation(y, u[:, 3:4], strength=0.2)
        y = adjust_hue(y, u[:, 4:5], strength=0.1)
        found = color_jitter(x, u, brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1, p=1.0)
        assert torch.equal(found, y)

    def test_gates(self, draw):
        x, u = draw(2, 3, 4, 4), draw(1, 5, seed=1).repeat(2, 1)
        u[:, 0] = torch.tensor([0.29, 0.3])
        y = ColorJitter(p=0.3)(x, u)
        assert not torch.equal(y[0], x[0])
        assert torch.equal(y[1], x[1])

    def test_width_without_colour(self):
        assert ColorJitter().width((3, 8, 8)) == 5
        assert ColorJitter().width((1, 8, 8)) == 3

    @pytest.mark.parametrize("adjust", [adjust_saturation, adjust_hue])
    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_saturation_and_hue_need_colour(self, draw, adjust, channels):
        x = draw(2, channels, 4, 4)
        assert torch.equal(adjust(x, draw(2, 1, seed=1), strength=0.5), x)

    @pytest.mark.parametrize("adjust", [adjust_brightness, adjust_contrast, adjust_saturation])
    def test_clamped(self, draw, adjust):
        y = adjust(draw(8, 3, 4, 4), torch.linspace(0, 0.999, 8)[:, None], strength=1.0)
        assert y.min() >= 0
        assert y.max() <= 1


class TestGrayscale:
    def test_gates(self, draw):
        x = draw(2, 3, 4, 4)
        y = grayscale(x, torch.tensor([[0.1], [0.2]]), p=0.2)
        assert torch.equal(y[0, 0], y[0, 1])
        assert torch.equal(y[1], x[1])

    def test_needs_colour(self, draw):
        with pytest.raises(InputError, match="3 channels"):
            grayscale(draw(1, 1, 4, 4), draw(1, 1), p=0.2)
        with pytest.raises(InputError, match=r"\(3, H, W\)"):
            Grayscale().width((1, 4, 4))


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: ColorJitter(brightness=1.1), "brightness"),
        (lambda: ColorJitter(contrast=-1), "contrast"),
        (lambda: ColorJitter(saturation=None), "saturation"),
        (lambda: ColorJitter(hue=0.6), "hue"),
        (lambda: ColorJitter(p=2), "p"),
        (lambda: Grayscale(p="often"), "p"),
    ],
)
def test_options_out_of_range(make, option):
    with pytest.raises(ConfigError, match=f"option '{option}'"):
        make()
