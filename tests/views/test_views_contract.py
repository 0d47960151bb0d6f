"""The questions every transform answers: shape, dtype, determinism, identity, range, finiteness, ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgessl.errors import InputError
from edgessl.views import TRANSFORMS, Pipeline
from edgessl.views.colors import ColorJitter, Grayscale
from edgessl.views.features import FeatureMask, FeatureNoise, FeatureOffset
from edgessl.views.images import Erase, GaussianBlur, HorizontalFlip, ResizedCrop, Rotation, Translate
from edgessl.views.latents import LatentGain, LatentMask, LatentNoise, TimeCrop
from edgessl.views.signals import ChannelDrop, FrameRotation, Jitter, Scaling, TimeMask, TimeShift
from edgessl.views.spectrograms import FrequencyMask, Gain

IMAGE, GREY, SIGNAL, SPECTROGRAM = (3, 12, 10), (1, 9, 12), (6, 20), (1, 8, 15)

# transform, sample shape, the noise row that means identity, whether values stay in the range they had
CASES = [
    (ChannelDrop(p=0.5), SIGNAL, [0.5] * 6, True),
    (ColorJitter(), IMAGE, [0.0, 0.5, 0.5, 0.5, 0.5], True),
    (ColorJitter(brightness=1.0, contrast=1.0), GREY, [0.0, 0.5, 0.5], True),
    (Erase(p=0.9), IMAGE, [0.9, 0.1, 0.2, 0.3, 0.4], True),
    (Erase(p=0.9, value=0.25), GREY, [0.9, 0.1, 0.2, 0.3, 0.4], True),
    (FeatureMask(p=0.5, group=3), (6,), [0.5] * 2, True),
    (FeatureNoise(), (6,), [0.5] * 6, False),
    (FeatureOffset(), (6,), [0.0] * 3 + [0.3] * 3, False),
    (FeatureOffset(group=2), (6,), [0.0] * 2 + [0.3] * 2, False),
    (FrameRotation(degrees=180), SIGNAL, [0.5, 0.1, 0.7], False),
    (FrequencyMask(fraction=0.6), SPECTROGRAM, [0.0, 0.6], True),
    (Gain(), SPECTROGRAM, [0.5], False),
    (GaussianBlur(p=0.8), IMAGE, [0.8, 0.9], True),
    (Grayscale(p=0.6), IMAGE, [0.6], True),
    (HorizontalFlip(), IMAGE, [0.5], True),
    (Jitter(), SIGNAL, [0.0] * 60 + [0.3] * 60, False),
    (LatentGain(), (5, 4, 3), [0.0] * 3 + [0.3] * 3, False),
    (LatentGain(), (6,), [0.0] * 3 + [0.3] * 3, False),
    (LatentMask(p=0.5), (5, 4, 3), [0.5] * 5, True),
    (LatentMask(p=0.5), (6,), [0.5] * 6, True),
    (LatentNoise(), (5, 4, 3), [0.5] * 60, False),
    (LatentNoise(), (6,), [0.5] * 6, False),
    (ResizedCrop(), IMAGE, [0.0, 0.5, 0.3, 0.9], True),
    (ResizedCrop(), SPECTROGRAM, [0.0, 0.5, 0.3, 0.9], True),
    (Rotation(degrees=40), IMAGE, [0.5], True),
    (Scaling(), SIGNAL, [0.0] * 3 + [0.3] * 3, False),
    (TimeCrop(), SIGNAL, [0.0, 0.6], True),
    (TimeMask(fraction=0.6), SIGNAL, [0.0, 0.6], True),
    (TimeMask(fraction=0.6), SPECTROGRAM, [0.0, 0.6], True),
    (TimeShift(fraction=0.5), SIGNAL, [0.5], True),
    (Translate(fraction=0.3), IMAGE, [0.5, 0.5], True),
]
EACH = pytest.mark.parametrize(
    ("transform", "shape", "identity", "keeps_range"),
    CASES,
    ids=[f"{case[0].name}-{'x'.join(map(str, case[1]))}-{i}" for i, case in enumerate(CASES)],
)


def test_table_covers_registry():
    assert {case[0].name for case in CASES} == set(TRANSFORMS)
    assert all(TRANSFORMS[case[0].name] is type(case[0]) for case in CASES)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype(draw, transform, shape, identity, keeps_range, dtype):
    x, u = draw(16, *shape, dtype=dtype), draw(16, transform.width(shape), seed=1, dtype=dtype)
    y = transform(x, u)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert not torch.equal(y, x)


@EACH
def test_same_noise_same_view_and_inputs_untouched(draw, transform, shape, identity, keeps_range):
    x, u = draw(4, *shape), draw(4, transform.width(shape), seed=1)
    x_before, u_before = x.clone(), u.clone()
    assert torch.equal(transform(x, u), transform(x, u))
    assert torch.equal(x, x_before)
    assert torch.equal(u, u_before)


@EACH
def test_sample_depends_on_its_own_row_only(draw, transform, shape, identity, keeps_range):
    x, u = draw(5, *shape, dtype=torch.float64), draw(5, transform.width(shape), seed=1, dtype=torch.float64)
    y = transform(x, u)
    for i in range(5):
        torch.testing.assert_close(transform(x[i : i + 1], u[i : i + 1])[0], y[i], rtol=0, atol=1e-12)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_noise(draw, transform, shape, identity, keeps_range, dtype):
    x = draw(3, *shape, dtype=dtype)
    assert len(identity) == transform.width(shape)
    assert torch.equal(transform(x, torch.tensor([identity] * 3, dtype=dtype)), x)


@EACH
def test_float32_follows_float64(draw, transform, shape, identity, keeps_range):
    x, u = draw(8, *shape), draw(8, transform.width(shape), seed=2)
    expected = transform(x.double(), u.double())
    torch.testing.assert_close(transform(x, u).double(), expected, rtol=0, atol=1e-5)


@EACH
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_finite_and_in_range_for_any_noise(draw, transform, shape, identity, keeps_range, data):
    x = data.draw(st.sampled_from([draw(2, *shape), torch.zeros(2, *shape), torch.ones(2, *shape)]))
    numbers = st.floats(0, 1, exclude_max=True, width=32)
    u = torch.from_numpy(data.draw(arrays(np.float32, (2, transform.width(shape)), elements=numbers)))
    y = transform(x, u)
    assert torch.isfinite(y).all()
    if keeps_range:
        # Weights that sum to one do so to the last bit only.
        assert y.min() >= -1e-6
        assert y.max() <= 1 + 1e-6


@EACH
def test_wrong_axes_are_refused(transform, shape, identity, keeps_range):
    vectors = transform.name.startswith(("latent", "feature"))
    for wrong in [(), (0, *shape[1:]), (1, 2, 3, *shape), *([] if vectors else [(4,)])]:
        with pytest.raises(InputError, match=transform.name):
            transform.width(wrong)


@EACH
def test_manifest_round_trip(transform, shape, identity, keeps_range):
    pipeline = Pipeline((transform,), shape)
    assert Pipeline.from_json(pipeline.to_json(), shape) == pipeline


@EACH
def test_onnx(draw, run_onnx, transform, shape, identity, keeps_range):
    width = transform.width(shape)
    fresh = draw(4, *shape, seed=3), draw(4, width, seed=4)
    (found,) = run_onnx(transform, (draw(4, *shape), draw(4, width, seed=1)), fresh)
    np.testing.assert_allclose(found, transform(*fresh).numpy(), rtol=0, atol=1e-5)
