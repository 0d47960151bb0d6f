"""Views of latents against closed forms, numpy and their stated distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgessl.errors import ConfigError, InputError
from edgessl.views import default_views
from edgessl.views.latents import LatentMask, latent_gain, latent_mask, latent_noise, time_crop, token_views

SHAPES = [(7,), (6, 11), (5, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_gain_is_one_log_normal_factor_per_channel(draw, shape):
    n, sigma = 3000, 0.4
    x = draw(n, *shape, dtype=torch.float64) + 0.5
    u = draw(n, shape[0] + shape[0] % 2, seed=1, dtype=torch.float64)
    logs = (latent_gain(x, u, sigma=sigma) / x).log().reshape(n, shape[0], -1)
    assert (logs - logs[:, :, :1]).abs().max() < 1e-9
    assert abs(logs[:, :, 0].mean()) < 0.02
    assert logs[:, :, 0].std() == pytest.approx(sigma, rel=0.03)
    assert torch.equal(latent_gain(torch.zeros(2, *shape), u[:2].float(), sigma=1.0), torch.zeros(2, *shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_has_its_share_of_the_spread(draw, shape):
    n, sigma = 2000, 0.3
    x = 4 * draw(n, *shape, dtype=torch.float64)
    u = draw(n, math.prod(shape), seed=1, dtype=torch.float64)
    axes = tuple(range(2, x.ndim)) or (1,)
    added = (latent_noise(x, u, sigma=sigma) - x) / x.std(axes, correction=0, keepdim=True)
    assert added.std() == pytest.approx(sigma, rel=0.02)
    assert abs(added.mean()) < 0.01
    assert added.abs().max() <= math.sqrt(3) * sigma


@pytest.mark.parametrize("shape", SHAPES)
def test_mask_silences_its_share_of_channels_and_never_all(draw, shape):
    n, p = 2000, 0.3
    x = draw(n, *shape) + 1
    silent = (latent_mask(x, draw(n, shape[0], seed=1), p=p) == 0).reshape(n, shape[0], -1)
    assert torch.equal(silent.all(2), silent.any(2))
    assert silent.float().mean() == pytest.approx(p, abs=0.02)
    u = draw(n, shape[0], seed=2)
    kept = latent_mask(x, u, p=1.0).reshape(n, shape[0], -1).amax(2) > 0
    assert torch.equal(kept, u == u.amax(1, keepdim=True))


def test_time_crop_reads_the_span_by_linear_interpolation(draw):
    x, u = draw(20, 3, 16, dtype=torch.float64), draw(20, 2, seed=1, dtype=torch.float64)
    found = time_crop(x, u, scale=(0.25, 0.75)).numpy()
    for i in range(20):
        length = 16 * (0.75 + (0.25 - 0.75) * float(u[i, 0]))
        start = float(u[i, 1]) * (16 - length)
        at = start + ((np.arange(16) + 0.5) * length / 16 - 0.5).clip(0, length - 1)
        for c in range(3):
            np.testing.assert_allclose(found[i, c], np.interp(at, np.arange(16), x[i, c].numpy()), atol=1e-12)


def test_defaults_fit_every_rank():
    names = {len(shape): [t.name for t in default_views("latent", shape).transforms] for shape in SHAPES}
    assert names[1] == ["latent_noise"]
    assert names[2] == ["time_shift", "latent_noise"]
    assert names[3] == ["resized_crop", "latent_noise"]  # no flip: what was cut off may have been a digit
    assert [t.name for t in token_views()] == ["latent_noise", "latent_mask"]
    with pytest.raises(InputError, match="latent views"):
        default_views("latent", (1, 2, 3, 4))
    with pytest.raises(ConfigError, match="latent"):
        default_views("smell", (3,))


def test_options_are_checked():
    with pytest.raises(ConfigError, match="latent_mask: option 'p'"):
        LatentMask(p=1.5)
