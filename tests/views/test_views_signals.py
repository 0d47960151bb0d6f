"""Signal views against scipy's rotations and statistics, numpy's roll and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.transform import Rotation

from edgessl.errors import ConfigError, InputError
from edgessl.views.signals import (
    ChannelDrop,
    FrameRotation,
    Jitter,
    Scaling,
    TimeMask,
    TimeShift,
    channel_drop,
    frame_rotation,
    jitter,
    normal,
    scaling,
    time_mask,
    time_shift,
)

F64 = torch.float64
unit = st.floats(0, 1, exclude_max=True, width=32)


class TestNormal:
    def test_an_even_grid_of_noise_becomes_normal(self):
        grid = (torch.arange(300, dtype=F64) + 0.5) / 300
        z = normal(torch.cartesian_prod(grid, grid)).numpy()
        for column in z.T:
            assert stats.kstest(column, "norm").statistic < 0.003
        np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.01)

    def test_closed_forms(self):
        # exp(-r^2 / 2) = 1 - u: u = 1 - exp(-2) is a radius of 2.
        u = torch.tensor([[0.0, 1 - math.exp(-2), 0.37, 0.25]], dtype=F64)
        torch.testing.assert_close(normal(u), torch.tensor([[0.0, 0, 0, 2]], dtype=F64), rtol=0, atol=1e-12)

    def test_largest_noise_is_finite(self):
        u = torch.tensor([[1 - 2**-24, 0.0]])
        assert normal(u)[0, 0].item() == pytest.approx(math.sqrt(2 * 24 * math.log(2)), rel=1e-6)


class TestFrameRotation:
    @settings(deadline=None)
    @given(angle=unit, height=unit, azimuth=unit)
    def test_equals_scipy(self, angle, height, azimuth):
        u = torch.tensor([[angle, height, azimuth]], dtype=F64)
        matrix = frame_rotation(torch.eye(3, dtype=F64)[None], u, degrees=120)[0].numpy()
        c = 2 * height - 1
        axis = [math.sqrt(1 - c * c) * f(2 * math.pi * azimuth) for f in (math.cos, math.sin)] + [c]
        turn = Rotation.from_rotvec(math.radians(120) * (2 * angle - 1) * np.array(axis))
        np.testing.assert_allclose(matrix, turn.as_matrix(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), rtol=0, atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)
        assert turn.magnitude() <= math.radians(120) + 1e-9

    def test_every_triple_turns_alike(self, draw):
        x, u = draw(4, 9, 7, dtype=F64), draw(4, 3, seed=1, dtype=F64)
        y = frame_rotation(x, u, degrees=180)
        for k in (0, 3, 6):
            alone = frame_rotation(x[:, k : k + 3], u, degrees=180)
            torch.testing.assert_close(y[:, k : k + 3], alone, rtol=0, atol=1e-12)
            torch.testing.assert_close(y[:, k : k + 3].norm(dim=1), x[:, k : k + 3].norm(dim=1), rtol=0, atol=1e-12)

    def test_axes_are_uniform_on_the_sphere(self, draw):
        u = draw(4000, 3, dtype=F64)
        u[:, 0] = 1 - 1e-12
        matrices = frame_rotation(torch.eye(3, dtype=F64).expand(4000, 3, 3), u, degrees=90)
        axes = Rotation.from_matrix(matrices.numpy()).as_rotvec() / (math.pi / 2)
        assert np.abs(axes.mean(0)).max() < 0.03
        np.testing.assert_allclose(np.cov(axes.T), np.eye(3) / 3, atol=0.03)

    @pytest.mark.parametrize("channels", [1, 2, 4, 8])
    def test_needs_triples(self, draw, channels):
        with pytest.raises(InputError, match=f"C = {channels}"):
            frame_rotation(draw(1, channels, 5), draw(1, 3), degrees=10)
        with pytest.raises(InputError, match=f"C = {channels}"):
            FrameRotation().width((channels, 5))


class TestScaling:
    def test_one_factor_per_channel(self, draw):
        x, u = 1 + draw(200, 3, 8, dtype=F64), draw(200, 4, seed=1, dtype=F64)
        factor = scaling(x, u, sigma=0.1) / x
        torch.testing.assert_close(factor, factor[:, :, :1].expand_as(factor), rtol=0, atol=1e-12)
        torch.testing.assert_close(factor[:, :, 0], 1 + 0.1 * normal(u)[:, :3], rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("channels", "width"), [(1, 2), (2, 2), (3, 4), (6, 6)])
    def test_width(self, channels, width):
        assert Scaling().width((channels, 10)) == width


class TestJitter:
    @pytest.mark.parametrize("length", [10, 11])
    def test_noise_is_relative_to_the_spread(self, draw, length):
        x, u = draw(4, 3, length, dtype=F64), draw(4, 30 + 4 * (length == 11), seed=1, dtype=F64)
        z = normal(u).numpy()[:, : 3 * length].reshape(4, 3, length)
        expected = x.numpy() + 0.2 * x.numpy().std(2, keepdims=True) * z
        np.testing.assert_allclose(jitter(x, u, sigma=0.2).numpy(), expected, rtol=0, atol=1e-12)

    def test_follows_a_change_of_unit(self, draw):
        x, u = draw(3, 2, 9, dtype=F64), draw(3, 18, seed=1, dtype=F64)
        torch.testing.assert_close(
            jitter(9.81 * x + 273, u, sigma=0.3), 9.81 * jitter(x, u, sigma=0.3) + 273, rtol=0, atol=1e-9
        )

    def test_a_constant_channel_stays(self, draw):
        x = torch.full((2, 1, 8), 3.5)
        assert torch.equal(jitter(x, draw(2, 8), sigma=1.0), x)

    def test_width_is_even(self):
        assert Jitter().width((3, 5)) == 16


class TestTimeShift:
    @settings(deadline=None)
    @given(noise=unit, length=st.integers(1, 40), fraction=st.floats(0, 0.5))
    def test_equals_roll(self, noise, length, fraction):
        x = torch.arange(2 * length, dtype=torch.float32).reshape(1, 2, length)
        furthest = int(fraction * length)
        shift = math.floor(np.float32(2 * furthest + 1) * np.float32(noise)) - furthest
        y = time_shift(x, torch.tensor([[noise]]), fraction=fraction)
        np.testing.assert_array_equal(y.numpy(), np.roll(x.numpy(), shift, axis=2))
        assert abs(shift) <= fraction * length

    def test_every_shift_is_equally_likely(self):
        x = torch.arange(20.0).expand(70, 1, 20)
        y = time_shift(x, (torch.arange(70)[:, None] + 0.5) / 70, fraction=0.15)
        assert y[:, 0, 10].to(int).bincount().tolist() == [0] * 7 + [10] * 7


class TestTimeMask:
    @settings(deadline=None)
    @given(length_noise=unit, position_noise=unit, fraction=st.floats(0, 1))
    def test_equals_a_loop(self, length_noise, position_noise, fraction):
        x = np.random.default_rng(0).normal(size=(1, 3, 17)).astype(np.float32)
        y = time_mask(torch.from_numpy(x), torch.tensor([[length_noise, position_noise]]), fraction=fraction)
        longest = int(fraction * 17)
        length = math.floor(np.float32(longest + 1) * np.float32(length_noise))
        start = math.floor(np.float32(17 - length + 1) * np.float32(position_noise))
        expected = x.copy()
        for channel in range(3):
            expected[0, channel, start : start + length] = x[0, channel].mean()
        assert length <= longest
        assert start + length <= 17
        np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-6)

    def test_both_ends_can_be_masked(self):
        x = torch.arange(10.0).expand(2, 1, 10)
        y = time_mask(x, torch.tensor([[0.99, 0.0], [0.99, 0.99]]), fraction=0.3)
        assert (y != x)[:, 0].nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 7], [1, 8], [1, 9]]


class TestChannelDrop:
    def test_drops_below_p_to_the_mean(self, draw):
        x = draw(1, 4, 6)
        y = channel_drop(x, torch.tensor([[0.1, 0.29, 0.3, 0.8]]), p=0.3)
        torch.testing.assert_close(y[:, :2], x[:, :2].mean(2, keepdim=True).expand(1, 2, 6))
        assert torch.equal(y[:, 2:], x[:, 2:])

    def test_one_channel_always_stays(self, draw):
        x, u = draw(100, 3, 5), draw(100, 3, seed=1)
        kept = (channel_drop(x, u, p=1.0) == x).all(2)
        assert torch.equal(kept, u == u.amax(1, keepdim=True))


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: FrameRotation(degrees=181), "degrees"),
        (lambda: Scaling(sigma=-0.1), "sigma"),
        (lambda: Jitter(sigma=math.inf), "sigma"),
        (lambda: TimeShift(fraction=0.6), "fraction"),
        (lambda: TimeMask(fraction=1.1), "fraction"),
        (lambda: ChannelDrop(p=[0.1]), "p"),
    ],
)
def test_options_out_of_range(make, option):
    with pytest.raises(ConfigError, match=f"option '{option}'"):
        make()
