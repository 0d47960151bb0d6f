"""The pipeline, many views, the manifest's form and the default pipelines."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch._decomp import core_aten_decompositions
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from edgessl.errors import ConfigError, InputError
from edgessl.views import LOCAL_SCALE, TRANSFORMS, MultiViews, Pipeline, default_views
from edgessl.views.images import HorizontalFlip, ResizedCrop, Rotation

DEFAULTS = [
    ("image", (1, 16, 16)),
    ("image", (3, 32, 32)),
    ("image", (1, 64, 64)),
    ("signal", (6, 32)),
    ("signal", (8, 1)),
    ("spectrogram", (1, 20, 25)),
]
KINDS = pytest.mark.parametrize(("kind", "shape"), DEFAULTS)


def names(pipeline: Pipeline) -> list[str]:
    return [transform.name for transform in pipeline.transforms]


class TestPipeline:
    def test_transforms_take_their_columns_in_order(self, draw):
        crop, flip, turn = ResizedCrop(), HorizontalFlip(), Rotation()
        pipeline = Pipeline((crop, flip, turn), (3, 8, 8))
        x, u = draw(5, 3, 8, 8), draw(5, 6, seed=1)
        assert pipeline.width == 6
        assert torch.equal(pipeline(x, u), turn(flip(crop(x, u[:, :4]), u[:, 4:5]), u[:, 5:]))

    def test_empty_is_the_batch(self, draw):
        pipeline = Pipeline((), (2, 4))
        x = draw(3, 2, 4)
        assert pipeline.width == 0
        assert torch.equal(pipeline(x, x.new_zeros(3, 0)), x)

    def test_autocast_does_not_reach_it(self, draw):
        pipeline = default_views("image", (3, 16, 16))
        x, u = draw(4, 3, 16, 16), draw(4, pipeline.width, seed=1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = pipeline(x, u)
        assert torch.equal(y, pipeline(x, u))

    def test_a_transform_that_does_not_apply(self):
        with pytest.raises(InputError, match="frame_rotation: expected channels in triples"):
            Pipeline.from_json([{"name": "frame_rotation", "options": {}}], (4, 16))
        with pytest.raises(InputError, match=r"time_shift: expected samples \(C, T\)"):
            Pipeline.from_json([{"name": "time_shift", "options": {}}], (3, 16, 16))

    @pytest.mark.parametrize("shape", [(2, 3, 8, 9), (2, 1, 8, 8), (3, 8, 8)])
    def test_wrong_batch(self, draw, shape):
        pipeline = default_views("image", (3, 8, 8))
        with pytest.raises(InputError, match=r"samples \(3, 8, 8\)"):
            pipeline(draw(*shape), draw(shape[0], pipeline.width))

    @pytest.mark.parametrize("shape", [(2, 5), (1, 4), (2, 3), (8,)])
    def test_wrong_noise(self, draw, shape):
        with pytest.raises(InputError, match=r"noise \(2, 4\)"):
            Pipeline((ResizedCrop(),), (1, 8, 8))(draw(2, 1, 8, 8), draw(*shape))

    def test_wrong_dtype_of_noise(self, draw):
        with pytest.raises(InputError, match="float64"):
            Pipeline((ResizedCrop(),), (1, 8, 8))(draw(2, 1, 8, 8), draw(2, 4, dtype=torch.float64))


class TestJson:
    def test_form(self):
        pipeline = Pipeline.from_json(
            [
                {"name": "resized_crop", "options": {"scale": [0.5, 1]}},
                {"name": "erase", "options": {"value": None}},
                {"name": "horizontal_flip"},
            ],
            (3, 8, 8),
        )
        assert pipeline.to_json() == [
            {"name": "resized_crop", "options": {"scale": [0.5, 1], "ratio": [3 / 4, 4 / 3]}},
            {
                "name": "erase",
                "options": {"p": 0.5, "scale": [0.02, 0.2], "ratio": [0.3, 3.3], "value": None},
            },
            {"name": "horizontal_flip", "options": {"p": 0.5}},
        ]

    @KINDS
    def test_round_trip_through_text(self, kind, shape):
        pipeline = default_views(kind, shape)
        assert Pipeline.from_json(json.loads(json.dumps(pipeline.to_json())), shape) == pipeline

    def test_unknown_name_lists_all(self):
        with pytest.raises(ConfigError, match="unknown transform 'solarize'") as error:
            Pipeline.from_json([{"name": "solarize", "options": {}}], (3, 8, 8))
        assert all(name in str(error.value) for name in TRANSFORMS)

    def test_unknown_option_lists_all(self):
        with pytest.raises(ConfigError, match="erase: unknown option 'area'; choose from p, scale, ratio, value"):
            Pipeline.from_json([{"name": "erase", "options": {"area": 1}}], (3, 8, 8))

    @pytest.mark.parametrize(
        "entry",
        [
            "erase",
            {},
            {"options": {}},
            {"name": "erase", "p": 0.5},
            {"name": "erase", "options": [0.5]},
            {"name": ["erase"], "options": {}},
            {"name": "erase", "options": {"name": "flip"}},
            {"name": "erase", "options": {"p": 7}},
        ],
    )
    def test_malformed(self, entry):
        with pytest.raises(ConfigError):
            Pipeline.from_json([entry], (3, 8, 8))


class TestMultiViews:
    def test_halves_of_the_noise(self, draw):
        pipeline = default_views("signal", (6, 16))
        views = MultiViews(pipeline)
        x, u = draw(4, 6, 16), draw(4, views.width, seed=1)
        a, b = views(x, u)
        half = pipeline.width
        assert views.width == 2 * half
        assert torch.equal(a, pipeline(x, u[:, :half]))
        assert torch.equal(b, pipeline(x, u[:, half:]))
        assert not torch.equal(a, b)

    def test_local_views_show_less_and_keep_the_size(self, draw):
        pipeline = Pipeline((ResizedCrop(scale=(0.9, 1.0), ratio=(1.0, 1.0)),), (1, 16, 16))
        views = MultiViews(pipeline, (2, 3))
        assert views.local.transforms == (ResizedCrop(scale=LOCAL_SCALE, ratio=(1.0, 1.0)),)
        ramp = torch.linspace(0, 1, 16).expand(64, 1, 16, 16)  # a view's range along the ramp is the share it shows
        u = draw(64, views.width, seed=2)
        shown = [v.amax((1, 2, 3)) - v.amin((1, 2, 3)) for v in views(ramp, u)]
        assert len(shown) == 5
        assert all(part.min() > 0.85 for part in shown[:2])
        assert all(part.max() < 0.85 for part in shown[2:])
        assert torch.equal(views(ramp, u)[3], views.local(ramp, u[:, 3 * pipeline.width : 4 * pipeline.width]))

    def test_without_a_crop_local_views_are_like_the_others(self):
        pipeline = default_views("signal", (6, 16))
        assert MultiViews(pipeline, (2, 4)).local == pipeline

    def test_wrong_noise(self, draw):
        views = MultiViews(default_views("image", (1, 8, 8)))
        with pytest.raises(InputError, match=str(views.width)):
            views(draw(2, 1, 8, 8), draw(2, views.width - 1))


class TestDefaults:
    def test_images(self):
        colour = names(default_views("image", (3, 32, 32)))
        assert colour == ["resized_crop", "horizontal_flip", "color_jitter", "grayscale"]
        assert names(default_views("image", (1, 28, 28))) == ["resized_crop", "rotation", "color_jitter"]
        assert names(default_views("image", (3, 96, 96))) == [*colour, "gaussian_blur"]

    def test_crops_of_small_images_are_larger(self):
        small, large = (default_views("image", (1, n, n)).transforms[0] for n in (28, 96))
        assert small.scale[0] > large.scale[0]

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 9])
    def test_frame_rotation_for_triples_only(self, channels):
        found = names(default_views("signal", (channels, 50)))
        assert ("frame_rotation" in found) == (channels % 3 == 0)
        assert ("channel_drop" in found) == (channels > 3)

    def test_unknown_kind(self):
        with pytest.raises(ConfigError, match="image, signal, spectrogram"):
            default_views("video", (3, 8, 8))

    def test_tokens_and_pairs_have_no_views(self):
        for kind, shape in (("tokens", (1, 64)), ("pair", (300,))):
            assert default_views(kind, shape) == Pipeline((), shape)
            assert MultiViews(default_views(kind, shape), (0, 0))(torch.rand(2, *shape), torch.rand(2, 0)) == ()

    @pytest.mark.parametrize(("kind", "shape"), [("image", (8, 8)), ("signal", (1, 8, 8)), ("spectrogram", (8,))])
    def test_wrong_shape(self, kind, shape):
        with pytest.raises(InputError, match=kind):
            default_views(kind, shape)

    @KINDS
    def test_onnx(self, draw, run_onnx, kind, shape):
        # As the exporter does it: traced to core ATen operators first, then written as ONNX.
        views = MultiViews(default_views(kind, shape))
        example = draw(4, *shape), draw(4, views.width, seed=1)
        traced = make_fx(functionalize(lambda x, u: views(x, u)), decomposition_table=core_aten_decompositions())(
            *example
        )
        fresh = draw(4, *shape, seed=2), draw(4, views.width, seed=3)
        for found, expected in zip(run_onnx(traced, example, fresh), views(*fresh), strict=True):
            np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)

    @pytest.mark.gpu
    @KINDS
    def test_gpu_agrees(self, draw, kind, shape):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU")
        pipeline = default_views(kind, shape)
        x, u = draw(8, *shape), draw(8, pipeline.width, seed=1)
        torch.testing.assert_close(pipeline(x.cuda(), u.cuda()).cpu(), pipeline(x, u), rtol=0, atol=1e-5)
