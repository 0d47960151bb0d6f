"""Masked modelling: golden values, masks that hide exactly what they say, and encoders that never see it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_trial import Trial
from torch import Tensor, nn

from edgessl.data import load_shared
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import Encoder, build_encoder
from edgessl.errors import ConfigError, DataError, InputError
from edgessl.objectives import build_objective
from edgessl.objectives.beit import RandomQuantizer
from edgessl.objectives.functional import masked_reconstruction_loss, patchify, unpatchify
from edgessl.objectives.functional.masked import (
    block_mask,
    masked_count,
    masked_mean,
    normalize_patches,
    random_mask,
    smooth_l1,
    visible_selection,
)
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep, hyper_tensors
from edgessl.views import Pipeline

torch.set_num_threads(1)

IMAGE = InputSpec("image", (2, 12, 12), (0.4, 0.5), (0.3, 0.2), "intensity 0..1")
SIGNAL = InputSpec("signal", (3, 32), (0.1, 0.0, 9.8), (2.0, 2.0, 3.0), "m/s^2")
TINY = {"width": 16, "depth": 3, "heads": 2, "patch": 4}


def encoder_of(spec: InputSpec) -> Encoder:
    name = "vit" if spec.kind == "image" else "signal_transformer"
    return build_encoder(name, spec.shape, mean=spec.mean, std=spec.std, **TINY)


def patch_noise_order(trial: Trial, tokens: int) -> np.ndarray[Any, Any]:
    return np.argsort(trial.noise[:, :tokens].numpy(), axis=1)


# --- the loss ------------------------------------------------------------------------------------------------------


def golden_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Images sin n as (2, 3, 8, 8), predictions cos n as (2, 4, 48), patches of 4 in (row, column, C) order."""
    n = np.arange(1, 385, dtype=np.float64)
    images = np.sin(n).reshape(2, 3, 8, 8)
    patches = [
        images[i, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].transpose(1, 2, 0).ravel()
        for i, r, c in itertools.product(range(2), range(2), range(2))
    ]
    target = torch.from_numpy(np.array(patches).reshape(2, 4, 48))
    prediction = torch.from_numpy(np.cos(n).reshape(2, 4, 48))
    return prediction, target, torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 1]], dtype=torch.float64)


def test_golden_values_of_mae() -> None:
    prediction, target, mask = golden_inputs()
    assert float(masked_reconstruction_loss(prediction, target, mask)) == pytest.approx(1.0147541316, abs=1e-9)
    standardised = masked_reconstruction_loss(prediction, target, mask, normalize_targets=True)
    assert float(standardised) == pytest.approx(1.4980962479, abs=1e-9)
    in_float32 = masked_reconstruction_loss(prediction.float(), target.float(), mask.float(), True)
    assert in_float32.dtype == torch.float32
    assert float(in_float32) == pytest.approx(1.4980962479, rel=1e-5)


def test_visible_patches_do_not_count() -> None:
    prediction, target, mask = golden_inputs()
    elsewhere = prediction + 100 * (1 - mask).unsqueeze(2)
    expected = masked_reconstruction_loss(prediction, target, mask)
    torch.testing.assert_close(masked_reconstruction_loss(elsewhere, target, mask), expected, rtol=0, atol=0)
    prediction.requires_grad_()
    (gradient,) = torch.autograd.grad(masked_reconstruction_loss(prediction, target, mask), prediction)
    assert (gradient[mask == 0] == 0).all()
    # d/dp of a mean over 6 hidden patches of 48 values
    torch.testing.assert_close(gradient[mask == 1], (2 / (6 * 48)) * (prediction - target).detach()[mask == 1])


def test_samples_count_by_the_patches_they_hide() -> None:
    errors, mask = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    assert float(masked_mean(errors, mask)) == pytest.approx((1 + 2 + 3 + 30) / 4)


def test_standardised_patches() -> None:
    patches = torch.from_numpy(np.random.default_rng(0).normal(3, 5, (2, 6, 9)))
    found = normalize_patches(patches, eps=0.0).numpy()
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(-1, ddof=1), 1, rtol=1e-12)
    assert torch.isfinite(normalize_patches(torch.ones(1, 2, 4))).all()  # a patch of one grey
    with pytest.raises(InputError, match="patches of 2 values or more"):
        normalize_patches(torch.ones(1, 2, 1))


@pytest.mark.parametrize("transition", [0.5, 2.0])
def test_smooth_l1_is_torchs(transition: float) -> None:
    error = torch.linspace(-4, 4, 33, dtype=torch.float64)
    expected = torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=transition, reduction="none")
    torch.testing.assert_close(smooth_l1(error, torch.tensor(transition)), expected)


# --- patches and masks ---------------------------------------------------------------------------------------------


def test_patches_are_cut_like_the_transformers_do() -> None:
    x = torch.randn(2, *IMAGE.shape)
    by_hand = torch.stack(
        [x[:, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].flatten(1) for r in range(3) for c in range(3)], dim=1
    )
    assert torch.equal(patchify(x, (4, 4)), by_hand)
    patches = encoder_of(IMAGE).stages.patches
    torch.testing.assert_close(patches.embed(by_hand) + patches.position, patches(x))
    s = torch.randn(2, *SIGNAL.shape)
    by_hand = torch.stack([s[:, :, 4 * t : 4 * t + 4].flatten(1) for t in range(8)], dim=1)
    assert torch.equal(patchify(s, (4,)), by_hand)
    patches = encoder_of(SIGNAL).stages.patches
    torch.testing.assert_close(patches.embed(by_hand) + patches.position, patches(s))


@pytest.mark.parametrize(
    ("shape", "patch"), [((2, 12, 8), (4, 4)), ((3, 6, 10), (2, 5)), ((3, 12), (3,)), ((1, 4), (4,))]
)
def test_unpatchify_is_the_inverse(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    x = torch.randn(3, *shape)
    assert torch.equal(unpatchify(patchify(x, patch), shape, patch), x)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(patches=st.integers(2, 70), ratio=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_masks_hide_exactly_their_share(patches: int, ratio: float, seed: int) -> None:
    noise = torch.from_numpy(np.random.default_rng(seed).random((4, patches)))
    hidden = min(max(round(ratio * patches), 1), patches - 1)
    mask, selection = random_mask(noise, ratio), visible_selection(noise, ratio)
    assert masked_count(patches, ratio) == hidden
    assert mask.sum(1).tolist() == [hidden] * 4
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert selection.shape == (4, patches - hidden, patches)
    assert (selection.sum(2) == 1).all()
    torch.testing.assert_close(1 - selection.sum(1), mask)  # the same patches, one of them in each row
    # the hidden ones have the larger noise
    assert (torch.where(mask == 1, noise, 2.0).amin(1) > torch.where(mask == 0, noise, -1.0).amax(1)).all()


def test_the_papers_counts() -> None:
    assert masked_count(196, 0.75) == 147
    assert masked_count(49, 0.6) == 29
    assert masked_count(64, 0.75) == 48


def test_every_patch_is_hidden_as_often() -> None:
    n, patches = 20_000, 12
    share = random_mask(torch.rand(n, patches, generator=torch.Generator().manual_seed(0)), 0.75).mean(0)
    # five standard deviations of a proportion
    assert (share - 0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / n)


@pytest.mark.parametrize(
    ("sizes", "block", "ratio"),
    [((12, 12), (4, 4), 0.6), ((9, 10), (2, 3), 0.5), ((32,), (4,), 0.6), ((50,), (8,), 0.3)],
)
def test_blocks_are_hidden_whole(sizes: tuple[int, ...], block: tuple[int, ...], ratio: float) -> None:
    grid = [-(-size // length) for size, length in zip(sizes, block, strict=True)]
    noise = torch.rand(6, math.prod(grid), generator=torch.Generator().manual_seed(1))
    mask = block_mask(noise, sizes, block, ratio)
    assert mask.shape == (6, 1, *sizes)
    for sample in range(6):
        hidden = 0
        for place in itertools.product(*map(range, grid)):
            cell = mask[sample, 0][tuple(slice(p * b, (p + 1) * b) for p, b in zip(place, block, strict=True))]
            assert cell.min() == cell.max()
            hidden += int(cell.max())
        assert hidden == round(ratio * math.prod(grid))


# --- what encoders see ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [IMAGE, SIGNAL], ids=["vit", "signal_transformer"])
def test_mae_encodes_visible_patches_only(spec: InputSpec) -> None:
    encoder = encoder_of(spec)
    trial = Trial("mae", encoder, decoder_width=16)
    tokens, width = encoder.feature_shape
    before = trial.loss()
    hidden = masked_count(tokens, 0.75)
    assert trial.outputs("encoder.run")[1].shape == (5, tokens - hidden, width)
    prediction = trial.outputs("decoder")[0]
    assert prediction.shape == (5, tokens, spec.shape[0] * (16 if spec.kind == "image" else 4))

    order = patch_noise_order(trial, tokens)
    patches = patchify(trial.sample, encoder.stages.patches.grid[2::2]).clone()
    for row, places in enumerate(order):
        patches[row, places[tokens - hidden :]] += 7 * torch.randn(hidden, patches.shape[2])
    changed = trial.loss(unpatchify(patches, spec.shape, encoder.stages.patches.grid[2::2]))
    assert torch.equal(changed.embeddings, before.embeddings)
    assert torch.equal(trial.outputs("decoder")[0], prediction)  # nor does the decoder see any of it
    assert changed.value != before.value  # only the targets moved

    for row, places in enumerate(order):
        patches[row, places[0]] += 1
    visible = trial.loss(unpatchify(patches, spec.shape, encoder.stages.patches.grid[2::2]))
    assert not torch.equal(visible.embeddings, before.embeddings)


@pytest.mark.parametrize("normalized", [True, False])
def test_mae_is_its_formula(normalized: bool) -> None:
    trial = Trial("mae", encoder_of(IMAGE), decoder_width=16, normalize_targets=normalized)
    value = float(trial.loss().value.detach())
    prediction = trial.outputs("decoder")[0].detach().double().numpy()
    x = (trial.sample.double().numpy() - np.reshape(IMAGE.mean, (2, 1, 1))) / np.reshape(IMAGE.std, (2, 1, 1))
    errors = []
    for row, places in enumerate(patch_noise_order(trial, 9)):
        for place in places[2:]:  # 9 patches of which round(6.75) = 7 are hidden
            r, c = divmod(int(place), 3)
            target = x[row, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].ravel()
            if normalized:
                target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
            errors.append(((prediction[row, place] - target) ** 2).mean())
    assert len(errors) == 5 * 7
    assert value == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("name", ["beit", "data2vec"])
@pytest.mark.parametrize("spec", [IMAGE, SIGNAL], ids=["vit", "signal_transformer"])
def test_hidden_patches_do_not_reach_the_embeddings(name: str, spec: InputSpec) -> None:
    encoder = encoder_of(spec)
    trial = Trial(name, encoder)
    before = trial.loss()
    tokens = encoder.feature_shape[0]
    hidden = masked_count(tokens, trial.objective.mask_ratio)  # type: ignore[attr-defined]
    patch = encoder.stages.patches.grid[2::2]
    patches = patchify(trial.sample, patch).clone()
    for row, places in enumerate(patch_noise_order(trial, tokens)):
        patches[row, places[tokens - hidden :]] += 7 * torch.randn(hidden, patches.shape[2])
    after = trial.loss(unpatchify(patches, spec.shape, patch))
    assert torch.equal(after.embeddings, before.embeddings)
    assert after.value != before.value
    # an encoder fed the mean where patches are hidden gives the same: that is what the mask token is
    mask = random_mask(trial.noise[:, :tokens], trial.objective.mask_ratio)  # type: ignore[attr-defined]
    pixels = unpatchify(mask.unsqueeze(2).expand(-1, -1, patches.shape[2]), spec.shape, patch)
    mean = torch.tensor(spec.mean).reshape(-1, *[1] * (len(spec.shape) - 1))
    torch.testing.assert_close(encoder(torch.where(pixels == 1, mean, trial.sample)), before.embeddings)


ENCODERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "image": ("ds_cnn_s", (1, 28, 28)),
    "odd image": ("resnet8", (3, 25, 30)),
    "spectrogram": ("ds_cnn_s", (1, 49, 10)),
    "signal": ("cnn1d", (6, 50)),
    "vit": ("vit", (3, 16, 16)),
    "signal_transformer": ("signal_transformer", (6, 64)),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_simmim_takes_any_encoder_and_hides_blocks_of_all_channels(case: str) -> None:
    name, shape = ENCODERS[case]
    trial = Trial("simmim", build_encoder(name, shape), decoder_width=8)
    before = trial.loss()
    seen = next(arguments[0] for part, arguments, _ in trial.calls if part == "encoder.run")
    hidden = (seen == 0).all(1, keepdim=True)  # no value of a random sample is exactly 0 by itself
    assert torch.equal((seen == 0).any(1, keepdim=True), hidden)
    assert 0.4 < hidden.float().mean() < 0.8
    spans = np.diff(np.pad(hidden[0, 0].reshape(-1, shape[-1])[0].int().numpy(), 1))
    lengths = np.flatnonzero(spans == -1) - np.flatnonzero(spans == 1)
    block = max(1, round(shape[-1] / (16 if len(shape) == 2 else 8)))
    assert all(length % block == 0 or length % block == shape[-1] % block for length in lengths)
    reconstruction = trial.outputs("decoder")[0]
    assert reconstruction.shape == trial.sample.shape
    # the loss is the mean absolute error over hidden values; the encoder was given the others only
    expected = (reconstruction - trial.sample).abs()[hidden.expand_as(trial.sample)].mean()
    torch.testing.assert_close(before.value, expected)
    after = trial.loss(torch.where(hidden, trial.sample + 1, trial.sample))
    assert torch.equal(after.embeddings, before.embeddings)


def test_simmim_spans_are_as_long_as_asked() -> None:
    trial = Trial("simmim", build_encoder("cnn1d", (2, 60)), block=10, mask_ratio=0.5)
    trial.loss()
    seen = next(arguments[0] for part, arguments, _ in trial.calls if part == "encoder.run")
    runs = (seen[:, 0].reshape(5, 6, 10) == 0).sum(2)
    assert Counter(runs.flatten().tolist()) == {0: 15, 10: 15}


# --- discrete targets and teachers ----------------------------------------------------------------------------------


def test_codes_are_the_nearest_of_normalised_vectors() -> None:
    torch.manual_seed(1)
    quantizer = RandomQuantizer(12, 5, 20)
    patches = torch.randn(3, 7, 12)
    projection, codebook = quantizer.projection.double().numpy(), quantizer.codebook.double().numpy()
    expected = np.zeros((3, 7), int)
    for i, j in itertools.product(range(3), range(7)):
        v = patches[i, j].double().numpy() @ projection
        # BEST-RQ, eq. 1: argmin || l2(c) - l2(A x) ||
        distances = [np.linalg.norm(c / np.linalg.norm(c) - v / np.linalg.norm(v)) for c in codebook]
        expected[i, j] = int(np.argmin(distances))
    np.testing.assert_array_equal(quantizer(patches).numpy(), expected)
    assert len(np.unique(expected)) > 5
    assert torch.equal(quantizer(3.5 * patches), quantizer(patches))


def test_brightness_does_not_choose_the_code() -> None:
    torch.manual_seed(1)
    quantizer = RandomQuantizer(64, 16, 256)
    flat = torch.ones(1, 64) / 8  # of unit length, as are the patches of mean zero
    textured = torch.randn(4000, 64)
    textured = textured - textured.mean(1, keepdim=True)
    textured = textured / textured.norm(dim=1, keepdim=True)
    ratio = (flat @ quantizer.projection).norm() / (textured @ quantizer.projection).norm(dim=1).mean()
    assert 0.5 / 8 < ratio < 2 / 8  # an eighth, the root of 1 / 64, up to chance


def test_codes_of_real_patches_are_many() -> None:
    try:
        source = load_shared("cifar100_sub").train
    except DataError as error:
        pytest.skip(str(error))
    x = torch.from_numpy(source.take(np.arange(0, len(source), len(source) // 1500)))
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    patches = patchify(x, (4, 4))
    torch.manual_seed(0)
    plain = nn.init.xavier_uniform_(torch.empty(48, 16))
    torch.manual_seed(0)
    ours = RandomQuantizer(48, 16, 256)

    def perplexity(projection: Tensor) -> float:
        codes = torch.argmax(patches @ projection @ ours.codebook.T, dim=-1)
        share = torch.bincount(codes.flatten(), minlength=256) / codes.numel()
        return float(torch.exp(-torch.xlogy(share, share).sum()))

    assert perplexity(plain) == pytest.approx(23, abs=3)
    assert perplexity(ours.projection) == pytest.approx(77, abs=5)


def test_the_quantizer_never_moves() -> None:
    encoder = encoder_of(IMAGE)
    step = TrainStep(encoder, build_objective("beit", codes=20), build_optimizer("adamw"), Pipeline((), IMAGE.shape))
    state = step.initial_state()
    first = step.layout.unflatten(state["theta"])
    for _ in range(3):
        noise = torch.rand(step.noise_shape(6))
        state, _ = step(state, torch.rand(6, *IMAGE.shape), noise, hyper_tensors(step.hyper))
    last = step.layout.unflatten(state["theta"])
    for name, value in first.items():
        moved = not torch.equal(last[name], value)
        fixed = name.startswith(("quantizer.", "encoder.normalize."))
        assert moved != fixed or name.startswith("encoder.stages.pool."), name


def test_beit_of_an_ignorant_predictor_is_the_logarithm_of_the_codes() -> None:
    trial = Trial("beit", encoder_of(IMAGE), codes=37)
    with torch.no_grad():
        trial.parts["predictor"].linear.weight.zero_()
        trial.parts["predictor"].linear.bias.zero_()
    assert float(trial.loss().value.detach()) == pytest.approx(math.log(37), rel=1e-6)


def test_data2vec_targets_are_the_mean_of_standardised_blocks_of_the_whole_input() -> None:
    encoder = encoder_of(IMAGE)
    trial = Trial("data2vec", encoder, layers=2)
    kept: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda m, i, out: kept.append(out.detach()))
        for block in (encoder.stages.block2, encoder.stages.block3)
    ]
    encoder(trial.sample)
    for hook in hooks:
        hook.remove()
    targets = []
    for h in kept:
        h64 = h.double().numpy()
        targets.append((h64 - h64.mean(-1, keepdims=True)) / np.sqrt(h64.var(-1, keepdims=True) + 1e-5))
    target = np.mean(targets, axis=0)

    loss = trial.loss()
    prediction = trial.outputs("predictor")[0].detach().double().numpy()
    error = np.abs(prediction - target)
    smooth = np.where(error < 2, error**2 / 4, error - 1).mean(-1)
    hidden = np.zeros((5, 9), bool)
    for row, places in enumerate(patch_noise_order(trial, 9)):
        hidden[row, places[9 - 5 :]] = True  # round(0.6 x 9)
    assert float(loss.value.detach()) == pytest.approx(smooth[hidden].mean(), rel=1e-5)


def test_data2vecs_teacher_follows_and_gets_no_gradient() -> None:
    step = TrainStep(encoder_of(IMAGE), build_objective("data2vec"), build_optimizer("sgd"), Pipeline((), IMAGE.shape))
    state = step.initial_state()
    assert torch.equal(state["teacher"], state["theta"])
    teacher = state["teacher"].clone().requires_grad_()
    batch, noise = torch.rand(6, *IMAGE.shape), torch.rand(step.noise_shape(6))
    gradient = step.gradient({**state, "teacher": teacher}, batch, noise, hyper_tensors(step.hyper))
    assert teacher.grad is None
    assert not gradient.loss.requires_grad
    new, _ = step(state, batch, noise, hyper_tensors({**step.hyper, "teacher_decay": 0.6}))
    torch.testing.assert_close(new["teacher"], 0.6 * state["theta"] + 0.4 * new["theta"])


# --- refusals ------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, dict[str, Any], Callable[[], Encoder], str]] = [
    ("mae", {}, lambda: build_encoder("ds_cnn_s", (1, 12, 12)), "'mae' hides patches: it takes the encoders vit"),
    ("beit", {}, lambda: build_encoder("cnn1d", (3, 32)), "first stage is 'stem'; the objective simmim masks"),
    ("data2vec", {"layers": 4}, lambda: encoder_of(IMAGE), "expected layers up to the encoder's 3, found 4"),
    ("mae", {}, lambda: build_encoder("signal_transformer", (1, 600), patch=2), "256 patches or fewer, found 300"),
    (
        "beit",
        {},
        lambda: build_encoder("signal_transformer", (1, 64), causal=True),
        "looks both ways from what is hidden; set the encoder's causal = false",
    ),
    ("simmim", {"block": 12}, lambda: build_encoder("ds_cnn_s", (1, 12, 12)), "a block of 12 hides all of"),
]


@pytest.mark.parametrize(("name", "options", "encoder", "message"), REFUSED)
def test_encoders_that_do_not_fit_are_refused(
    name: str, options: dict[str, Any], encoder: Callable[[], Encoder], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_objective(name, **options).heads(encoder(), "layer")


@pytest.mark.parametrize("name", ["mae", "simmim", "beit", "data2vec"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_impossible_ratios_are_refused(name: str, ratio: float) -> None:
    with pytest.raises(
        ConfigError, match=f"{name}': option 'mask_ratio' takes a number between 0 and 1, found {ratio}"
    ):
        build_objective(name, mask_ratio=ratio)
