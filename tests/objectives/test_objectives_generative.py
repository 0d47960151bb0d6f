"""Decoders, bottlenecks and diffusion: closed forms, moments, and losses written out in float64 numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from objective_trial import N, Trial

from edgessl.encoders import build_encoder
from edgessl.errors import ConfigError
from edgessl.objectives import build_objective
from edgessl.objectives.decoders import MapDecoder, VectorDecoder, enlarge, sample_decoder
from edgessl.objectives.denoising import gaussian_like, gaussian_width
from edgessl.objectives.functional.generative import diffuse, gaussian_kl, signal_levels, time_embedding

torch.set_num_threads(1)

Array = np.ndarray[Any, Any]
MEAN, STD = (0.4, 0.6), (0.3, 0.2)


def normalised(x: torch.Tensor) -> Array:
    shape = (2, *[1] * (x.ndim - 2))
    return (x.double().numpy() - np.reshape(MEAN, shape)) / np.reshape(STD, shape)


def box_muller(u: Array) -> Array:
    half = u.shape[1] // 2
    radius, angle = np.sqrt(-2 * np.log1p(-u[:, :half])), 2 * np.pi * u[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)


def encoder(name: str = "ds_cnn_s", shape: tuple[int, ...] = (2, 9, 11)) -> Any:
    return build_encoder(name, shape, mean=MEAN, std=STD)


# --- closed forms --------------------------------------------------------------------------------------------------


def test_kl_is_zero_for_the_prior_and_torchs_elsewhere() -> None:
    zeros = torch.zeros(3, 4, dtype=torch.float64)
    assert gaussian_kl(zeros, zeros).tolist() == [0, 0, 0]
    mean, log_variance = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    q = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(zeros[:1], 1.0)).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)


def test_kl_is_the_integral() -> None:
    mean, deviation = 0.7, 0.4
    x, dx = np.linspace(-12, 12, 200_001, retstep=True)
    q = np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))
    log_ratio = -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation) + 0.5 * x**2
    found = gaussian_kl(torch.tensor([[mean]]).double(), torch.tensor([[2 * math.log(deviation)]]).double())
    assert float(found) == pytest.approx(float((q * log_ratio).sum() * dx), rel=1e-6)


def test_linear_levels_are_those_of_the_paper() -> None:
    levels = signal_levels(1000, "linear")
    assert levels.shape == (1000,)
    assert levels[0] == pytest.approx(1 - 1e-4, rel=1e-12)
    # Ho et al. 2020, section 4: KL(q(x_T | x_0) || N(0, I)) is about 1e-5 bits per dimension; x_0 uniform in [-1, 1]
    signal = levels[-1]
    kl = 0.5 * (signal / 3 + (1 - signal) - 1 - np.log1p(-signal)) / np.log(2)
    assert kl == pytest.approx(1e-5, rel=0.1)
    assert np.prod([1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(1000)]) == pytest.approx(levels[-1], rel=1e-9)


def test_cosine_levels_are_their_formula_until_the_clip() -> None:
    steps = 200
    levels = signal_levels(steps, "cosine")
    t = np.arange(1, steps) / steps

    def f(s: Array | float) -> Any:
        return np.cos((s + 0.008) / 1.008 * np.pi / 2) ** 2

    np.testing.assert_allclose(levels[:-1], f(t) / f(0.0), rtol=1e-9)
    assert levels[-1] == pytest.approx(0.001 * levels[-2])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [21, 100, 1000])
def test_levels_fall_from_nearly_all_signal_to_nearly_none(schedule: str, steps: int) -> None:
    levels = signal_levels(steps, schedule)
    assert (np.diff(levels) < 0).all()
    assert levels[0] > 0.98
    assert 0 < levels[-1] < 1e-3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_noising_at_once_has_the_moments_of_noising_in_steps(schedule: str) -> None:
    # the chain x_t = sqrt(1 - b_t) x_(t-1) + sqrt(b_t) e_t: its mean and variance, step by step
    levels = signal_levels(50, schedule)
    x0, mean, variance = 1.7, 1.7, 0.0
    n = 200_000
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((n, 1)))
    for t in range(50):
        b = 1 - levels[t] / (levels[t - 1] if t else 1.0)
        mean, variance = math.sqrt(1 - b) * mean, (1 - b) * variance + b
        if t % 12 == 0:
            x = diffuse(torch.full((n, 1), x0).double(), noise, torch.full((n,), levels[t]))
            assert float(x.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / n))
            assert float(x.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


def test_extreme_levels() -> None:
    x, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(diffuse(x, noise, torch.ones(2)), x)
    assert torch.equal(diffuse(x, noise, torch.zeros(2)), noise)


def test_time_embeddings_tell_all_times_apart() -> None:
    e = time_embedding(torch.arange(1000.0), 32)
    assert e.shape == (1000, 32)
    torch.testing.assert_close(e.square().sum(1), torch.full((1000,), 16.0))
    assert (torch.cdist(e, e) + 10 * torch.eye(1000)).min() > 0.5
    torch.testing.assert_close(e[7, [0, 16]], torch.tensor([math.cos(7), math.sin(7)]))


def test_gaussian_noise_has_the_moments_of_one() -> None:
    shape = (3, 5, 7)  # an odd count
    noise = torch.rand(2000, gaussian_width(shape), generator=torch.Generator().manual_seed(0))
    x = gaussian_like(torch.empty(2000, *shape), noise)
    assert x.shape == (2000, *shape)
    count = x.numel()
    assert abs(float(x.mean())) < 5 / math.sqrt(count)
    assert float(x.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    assert float(x.pow(4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / count))
    flat = x.flatten(1)
    correlation = flat.T @ flat / 2000 - torch.eye(105)
    assert correlation.abs().max() < 6 / math.sqrt(2000)


# --- decoders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [((4, 5), (8, 10)), ((3, 4), (5, 9)), ((1, 2), (3, 3))])
def test_enlarging_maps_is_torchs_interpolation(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *old)
    expected = torch.nn.functional.interpolate(x, new, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarge(x, new), expected)
    line = torch.nn.functional.interpolate(x[:, :, 0], new[1], mode="linear", align_corners=False)
    torch.testing.assert_close(enlarge(x[:, :, 0], new[1:]), line)


def test_enlarging_a_long_bfloat16_signal_keeps_its_places() -> None:
    ramp = torch.linspace(0, 1, 600).reshape(1, 1, -1)
    found = enlarge(ramp.bfloat16(), (1200,)).float()
    expected = torch.nn.functional.interpolate(ramp, 1200, mode="linear", align_corners=False)
    assert (found - expected).abs().max() < 0.01


SHAPES = [
    ("ds_cnn_s", (1, 28, 28), [(7, 7), (14, 14), (28, 28)]),
    ("ds_cnn_s", (1, 49, 10), None),
    ("resnet8", (3, 25, 30), None),
    ("cnn1d", (6, 50), [(7,), (13,), (25,), (50,)]),
    ("cnn1d", (1, 1000), None),
    ("vit", (3, 16, 24), None),
    ("signal_transformer", (6, 64), None),
]


@pytest.mark.parametrize(("name", "shape", "sizes"), SHAPES)
def test_decoders_give_the_samples_shape(name: str, shape: tuple[int, ...], sizes: list[Any] | None) -> None:
    built = build_encoder(name, shape)
    decoder = sample_decoder(built, "denoising", 8)
    features = built.features(torch.randn(2, *shape))
    assert decoder(features).shape == (2, *shape)
    assert sample_decoder(built, "denoising", 8, channels=5)(features).shape == (2, 5, *shape[1:])
    if sizes is not None:
        assert isinstance(decoder, MapDecoder)
        assert decoder.sizes == sizes
    assert VectorDecoder(4, shape, 8)(torch.randn(2, 4)).shape == (2, *shape)


def test_features_without_a_place_in_the_sample_are_refused() -> None:
    tokens = build_encoder("token_transformer", (1, 16), vocabulary=10)
    with pytest.raises(ConfigError, match="objective 'denoising'"):
        build_objective("denoising").heads(tokens, "layer")


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), [("ds_cnn_s", (2, 9, 11)), ("cnn1d", (2, 41))])
def test_denoising_is_its_formula(name: str, shape: tuple[int, ...]) -> None:
    trial = Trial("denoising", encoder(name, shape), decoder_width=8)
    loss = trial.loss(sigma=0.7, dropped=0.25)
    x = normalised(trial.sample)
    values, width = math.prod(shape), gaussian_width(shape)
    u = trial.noise.double().numpy()
    gaussian = box_muller(u[:, :width])[:, :values].reshape(x.shape)
    kept = (u[:, width:] >= 0.25).reshape(N, 1, *shape[1:])
    assert 0.6 < kept.mean() < 0.9
    given = next(arguments[0] for part, arguments, _ in trial.calls if part == "encoder.run")
    np.testing.assert_allclose(given.numpy(), (x + 0.7 * gaussian) * kept, atol=1e-5)
    output = trial.outputs("decoder")[0].detach().double().numpy()
    assert float(loss.value.detach()) == pytest.approx(((output - x) ** 2).mean(), rel=1e-5)


def test_vae_is_the_evidence_bound() -> None:
    trial = Trial("vae", encoder(), latent=3, decoder_width=8)
    loss = trial.loss(beta=2.5)
    heads = trial.outputs("bottleneck")[0].detach().double().numpy()
    mean, log_variance = heads[:, :3], heads[:, 3:]
    epsilon = box_muller(trial.noise.double().numpy())[:, :3]
    (z,) = next(arguments for part, arguments, _ in trial.calls if part == "decoder")
    np.testing.assert_allclose(z.detach().numpy(), mean + np.exp(log_variance / 2) * epsilon, rtol=1e-4, atol=1e-6)
    x, output = normalised(trial.sample), trial.outputs("decoder")[0].detach().double().numpy()
    # log density of unit-variance Gaussian pixels, without its constant
    likelihood = -0.5 * ((x - output) ** 2).sum((1, 2, 3))
    kl = [
        sum(0.5 * (m * m + math.exp(v) - 1 - v) for m, v in zip(row_m, row_v, strict=True))
        for row_m, row_v in zip(mean, log_variance, strict=True)
    ]
    bound = (likelihood - 2.5 * np.array(kl)).mean()
    assert float(loss.value.detach()) == pytest.approx(-bound / (2 * 9 * 11), rel=1e-5)
    assert torch.equal(loss.embeddings, trial.outputs("encoder")[0])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_diffusion_is_its_formula(schedule: str) -> None:
    trial = Trial("diffusion", encoder(), steps=100, schedule=schedule, decoder_width=8)
    loss = trial.loss()
    u = trial.noise.double().numpy()
    t = np.floor(u[:, 0] * 100).astype(int)
    assert len(set(t)) > 2
    level = signal_levels(100, schedule)[t].reshape(-1, 1, 1, 1)
    x = normalised(trial.sample)
    epsilon = box_muller(u[:, 1:])[:, : x[0].size].reshape(x.shape)
    noised, features, times = next(arguments for part, arguments, _ in trial.calls if part == "predictor")
    np.testing.assert_allclose(noised.numpy(), np.sqrt(level) * x + np.sqrt(1 - level) * epsilon, atol=1e-4)
    np.testing.assert_array_equal(times.numpy(), t)
    assert features.shape[1:] == trial.parts["encoder"].feature_shape
    output = trial.outputs("predictor")[0].detach().double().numpy()
    assert float(loss.value.detach()) == pytest.approx(((output - epsilon) ** 2).mean(), rel=1e-4)


def test_the_noise_predictor_reads_features_and_time() -> None:
    trial = Trial("diffusion", encoder(), decoder_width=8)
    trial.loss()
    noised, features, t = next(arguments for part, arguments, _ in trial.calls if part == "predictor")
    predictor = trial.parts["predictor"]
    first = predictor(noised, features, t)
    assert not torch.allclose(predictor(noised, features + 1, t), first)
    assert not torch.allclose(predictor(noised, features, t + 100), first)
    assert not torch.allclose(predictor(noised + 1, features, t), first)


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown noise schedule 'sigmoid'; choose one of linear, cosine"):
        build_objective("diffusion", schedule="sigmoid")
    with pytest.raises(ConfigError, match="expected more than 20 steps, found 20"):
        build_objective("diffusion", steps=20)
