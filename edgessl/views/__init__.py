"""Views: the random augmentations of self-supervised learning, as deterministic functions of (batch, noise).

Nothing here draws a random number: the caller passes uniform [0, 1) noise, so the same noise gives the same
views on any machine, and a `Pipeline` can be traced into the ONNX training graph. To add a transform: a
function and a class in the file of its kind, one line in `TRANSFORMS`, one line in
tests/views/test_views_contract.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from edgessl.errors import ConfigError, InputError
from edgessl.views.colors import ColorJitter, Grayscale
from edgessl.views.features import FeatureMask, FeatureNoise, FeatureOffset
from edgessl.views.images import Erase, GaussianBlur, HorizontalFlip, ResizedCrop, Rotation, Translate
from edgessl.views.latents import LAYOUTS, LatentGain, LatentMask, LatentNoise, TimeCrop
from edgessl.views.signals import ChannelDrop, FrameRotation, Jitter, Scaling, TimeMask, TimeShift
from edgessl.views.spectrograms import FrequencyMask, Gain
from edgessl.views.transform import Shape, Transform, check_axes

__all__ = ["TRANSFORMS", "MultiViews", "Pipeline", "Transform", "default_views"]

TRANSFORMS: dict[str, type[Any]] = {
    "channel_drop": ChannelDrop,
    "color_jitter": ColorJitter,
    "erase": Erase,
    "feature_mask": FeatureMask,
    "feature_noise": FeatureNoise,
    "feature_offset": FeatureOffset,
    "frame_rotation": FrameRotation,
    "frequency_mask": FrequencyMask,
    "gain": Gain,
    "gaussian_blur": GaussianBlur,
    "grayscale": Grayscale,
    "horizontal_flip": HorizontalFlip,
    "jitter": Jitter,
    "latent_gain": LatentGain,
    "latent_mask": LatentMask,
    "latent_noise": LatentNoise,
    "resized_crop": ResizedCrop,
    "rotation": Rotation,
    "scaling": Scaling,
    "time_crop": TimeCrop,
    "time_mask": TimeMask,
    "time_shift": TimeShift,
    "translate": Translate,
}


def _transform(entry: Mapping[str, Any]) -> Transform:
    """The transform that one manifest entry describes; ConfigError lists what exists."""
    if not isinstance(entry, Mapping) or not {"name"} <= set(entry) <= {"name", "options"}:
        raise ConfigError(f'views: expected entries {{"name": ..., "options": {{...}}}}; found {entry!r}')
    name, options = entry["name"], entry.get("options", {})
    if not isinstance(name, str) or name not in TRANSFORMS:
        raise ConfigError(f"views: unknown transform {name!r}; choose from {', '.join(sorted(TRANSFORMS))}")
    if not isinstance(options, Mapping):
        raise ConfigError(f"{name}: expected options as an object; found {options!r}")
    known = [field.name for field in fields(TRANSFORMS[name])]
    for option in options:
        if option not in known:
            raise ConfigError(f"{name}: unknown option {option!r}; choose from {', '.join(known)}")
    return TRANSFORMS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


@dataclass(frozen=True)
class Pipeline:
    """Transforms applied in order to batches (N, *shape); each takes its own columns of the noise.

    Raises:
        InputError: a transform does not apply to samples of this shape, or a batch or its noise does not fit.
    """

    transforms: tuple[Transform, ...]
    shape: Shape

    def __post_init__(self) -> None:
        for transform in self.transforms:
            transform.width(self.shape)

    @property
    def width(self) -> int:
        """Noise columns of one view."""
        return sum(transform.width(self.shape) for transform in self.transforms)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """One view (N, *shape) of the batch `x` (N, *shape), for the noise `u` (N, width) of the same dtype.

        Always computed in the batch's own precision, also where the caller trains under autocast.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(f"views: expected a batch of samples {self.shape}; found {tuple(x.shape)}")
        if tuple(u.shape) != (x.shape[0], self.width) or u.dtype != x.dtype:
            raise InputError(
                f"views: expected noise ({x.shape[0]}, {self.width}), {x.dtype}, uniform in [0, 1); "
                f"found {tuple(u.shape)}, {u.dtype}"
            )
        with torch.autocast(x.device.type, enabled=False):
            start = 0
            for transform in self.transforms:
                end = start + transform.width(self.shape)
                x = transform(x, u[:, start:end])
                start = end
        return x

    @classmethod
    def from_json(cls, entries: Sequence[Mapping[str, Any]], shape: Shape) -> Pipeline:
        """Read the manifest's form, [{"name": ..., "options": {...}}, ...], for samples of `shape`.

        Raises:
            ConfigError: unknown name, unknown option or a value out of range.
            InputError: a transform does not apply to this shape.
        """
        return cls(tuple(_transform(entry) for entry in entries), tuple(shape))

    def to_json(self) -> list[dict[str, Any]]:
        """The manifest's form, every option written out; `from_json` reads it back equal."""
        return [
            {
                "name": transform.name,
                "options": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(transform).items()},
            }
            for transform in self.transforms
        ]


LOCAL_SCALE = (0.1, 0.4)  # share of the area that a local view shows


@dataclass(frozen=True)
class MultiViews:
    """Independent views of a batch: `crops[0]` global ones through the pipeline, then `crops[1]` local ones.

    Two global views are what joint-embedding objectives compare. Local views are the multi-crop of SwAV (Caron et
    al. 2020, section 3.3): the same pipeline, its crop showing `LOCAL_SCALE` of the area. They are stretched to the
    sample's full size, since an exported encoder takes one size; a pipeline without a crop makes them like the others.
    """

    pipeline: Pipeline
    crops: tuple[int, int] = (2, 0)

    @property
    def width(self) -> int:
        """Noise columns of all views."""
        return sum(self.crops) * self.pipeline.width

    @cached_property
    def local(self) -> Pipeline:
        """The pipeline of the local views."""
        crops = (replace(t, scale=LOCAL_SCALE) if isinstance(t, ResizedCrop) else t for t in self.pipeline.transforms)
        return replace(self.pipeline, transforms=tuple(crops))

    def __call__(self, batch: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """The views, each like `batch` (N, *shape); noise (N, width), the first columns for the first view."""
        if noise.ndim != 2 or noise.shape[1] != self.width:
            raise InputError(f"views: expected noise (N, {self.width}); found {tuple(noise.shape)}")
        pipelines = [self.pipeline] * self.crops[0] + [self.local] * self.crops[1]
        size = self.pipeline.width
        return tuple(p(batch, noise[:, i * size : (i + 1) * size]) for i, p in enumerate(pipelines))


def _image_views(shape: Shape) -> list[Transform]:
    channels, height, width = shape
    # A fifth of a small picture is a few pixels: two such crops need not show the same thing.
    small = min(height, width) < 64
    views: list[Transform] = [ResizedCrop(scale=(0.4 if small else 0.2, 1.0))]
    if channels == 3:
        views += [HorizontalFlip(), ColorJitter(), Grayscale()]
    else:
        # Digits, letters and machine readings change meaning when mirrored; a small turn is safe.
        views += [Rotation(), ColorJitter()]
    return views if small else [*views, GaussianBlur()]


def _signal_views(shape: Shape) -> list[Transform]:
    channels = shape[0]
    views: list[Transform] = [FrameRotation()] if channels % 3 == 0 else []
    views += [TimeShift(), Scaling(), Jitter(), TimeMask()]
    # With three channels or fewer each is needed to tell what happens.
    return [*views, ChannelDrop()] if channels > 3 else views


def _spectrogram_views(shape: Shape) -> list[Transform]:
    return [ResizedCrop(scale=(0.6, 1.0)), Gain(), FrequencyMask(), TimeMask()]


def _latent_views(shape: Shape) -> list[Transform]:
    # Mild: on the validation streams of docs/latent.md silent channels and strong gains cost more than they taught.
    place: dict[int, list[Transform]] = {
        1: [],
        2: [TimeShift(fraction=0.2)],
        3: [ResizedCrop(scale=(0.6, 1.0))],  # no mirror image: what was cut off may have been digits or time
    }
    return [*place[len(shape)], LatentNoise()]


def _feature_views(shape: Shape) -> list[Transform]:
    return [FeatureOffset(), FeatureNoise(), FeatureMask()]


def _no_views(shape: Shape) -> list[Transform]:
    return []


_DEFAULTS = {
    "image": ("CHW", _image_views),
    "signal": ("CT", _signal_views),
    "spectrogram": ("CFT", _spectrogram_views),
    "tokens": ("1L", _no_views),
    "pair": ("n", _no_views),
    "features": ("n", _feature_views),
}


def default_views(kind: str, shape: Shape) -> Pipeline:
    """A sane pipeline to start from, for samples of `kind` ("image", "signal", "spectrogram", ...) and this shape.

    Images: SimCLR's crop and colour changes (Chen et al. 2020), milder below 64 pixels; for C != 3 a small
    turn in place of the mirror image. Signals: shift, scaling, noise and a time mask, and above three
    channels a channel lost; C a multiple of 3 is taken for three-axis sensors and adds `frame_rotation`,
    which is wrong for, say, twelve ECG leads: write their pipeline out. Spectrograms (log magnitudes): a crop
    as in BYOL-A (Niizumi et al. 2021), volume, and SpecAugment's masks. All untuned. Features: an offset, noise and
    values that are missing. Tokens and pairs have none: their objectives mask, predict, or compare the two sides.
    Latents (vectors and maps with their channels first): a place in the map, and noise; for
    latents of a transformer take `latents.token_views`.

    Raises:
        ConfigError: unknown kind.
        InputError: the shape has the wrong number of axes.
    """
    if kind == "latent":
        check_axes("latent views", shape, *LAYOUTS)
        return Pipeline(tuple(_latent_views(shape)), tuple(shape))
    if kind not in _DEFAULTS:
        raise ConfigError(f"views: unknown kind {kind!r}; choose from {', '.join(_DEFAULTS)}, latent")
    axes, build = _DEFAULTS[kind]
    if len(shape) != len(axes):
        raise InputError(f"views: expected a shape ({', '.join(axes)}) for {kind!r}; found {tuple(shape)}")
    return Pipeline(tuple(build(shape)), tuple(shape))
