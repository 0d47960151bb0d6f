"""The plain loop that `edgessl bench pretrain` compares with: PyTorch as one usually writes it.

A dataset that augments one image at a time with torchvision's transforms (written out here: the algorithms and the
random draws of `RandomResizedCrop`, `RandomHorizontalFlip`, `RandomRotation`, `ColorJitter`, `RandomGrayscale` and
`GaussianBlur` on tensors), a DataLoader, modules and AdamW. The chances and ranges are those of `default_views`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgessl.views import Pipeline
from edgessl.views.transform import Transform

Augment = Callable[[Tensor], Tensor]
_LUMA = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)


class TwoCrops(Dataset[tuple[Tensor, Tensor]]):
    """Two augmented copies of each image of `images` `(N, C, H, W)`."""

    def __init__(self, images: Tensor, augment: Augment) -> None:
        self.images, self.augment = images, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return self.augment(image), self.augment(image)


class NTXent(nn.Module):
    """SimCLR's loss: cross-entropy of each view's similarities, its partner being the right answer."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Scalar loss of projections `(N, D)` and `(N, D)`."""
        n = len(z_a)
        z = F.normalize(torch.cat([z_a, z_b]), dim=1)
        logits = (z @ z.T / self.temperature).float()
        logits.fill_diagonal_(float("-inf"))
        partner = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(logits, partner)


class PlainLoop:
    """Encoder and projector with a loss and an optimizer.

    Args:
        encoder, projector: modules on the device they shall train on.
        lr, weight_decay, temperature: of AdamW and the loss.
        bf16: autocast the networks.
        compile: torch.compile the networks.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        *,
        lr: float,
        weight_decay: float,
        temperature: float,
        bf16: bool = False,
        compile: bool = False,
    ) -> None:
        self.model: nn.Module = nn.Sequential(encoder, projector).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=weight_decay)
        self.criterion = NTXent(temperature)
        self._autocast = bf16
        self._network = torch.compile(self.model) if compile else self.model

    def step(self, a: Tensor, b: Tensor) -> Tensor:
        """One step on two views `(N, C, H, W)`; returns the loss, still on its device."""
        with torch.autocast(a.device.type, torch.bfloat16) if self._autocast else nullcontext():
            z_a, z_b = self._network(torch.cat([a, b])).chunk(2)
            loss: Tensor = self.criterion(z_a, z_b)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def loader(images: Tensor, augment: Augment, batch_size: int, workers: int, pinned: bool) -> Iterator[list[Tensor]]:
    """Batches of two views, epoch after epoch without end."""
    found = DataLoader(
        TwoCrops(images, augment),
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=pinned,
        persistent_workers=workers > 0,
    )
    while True:
        yield from found


def like(pipeline: Pipeline) -> Augment:
    """What torchvision would do for the transforms of `pipeline`, one image at a time."""
    steps = [_like(transform) for transform in pipeline.transforms]

    def augment(image: Tensor) -> Tensor:
        for step in steps:
            image = step(image)
        return image

    return augment


def _like(t: Transform) -> Augment:
    from edgessl.views.colors import ColorJitter, Grayscale
    from edgessl.views.images import GaussianBlur, HorizontalFlip, ResizedCrop, Rotation

    match t:
        case ResizedCrop():
            return lambda x: resized_crop(x, t.scale, t.ratio)
        case HorizontalFlip():
            return lambda x: x.flip(-1) if random.random() < t.p else x
        case Rotation():
            return lambda x: rotate(x, random.uniform(-t.degrees, t.degrees))
        case ColorJitter():
            return lambda x: (
                color_jitter(x, t.brightness, t.contrast, t.saturation, t.hue) if random.random() < t.p else x
            )
        case Grayscale():
            return lambda x: gray(x).expand_as(x) if random.random() < t.p else x
        case GaussianBlur():
            return lambda x: blur(x, random.uniform(*t.sigma)) if random.random() < t.p else x
    raise NotImplementedError(f"the plain loop has no {t.name}")


def resized_crop(x: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """A random box of `x` `(C, H, W)`, resized to its size; ten tries to fit one, then the whole."""
    _, height, width = x.shape
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            box = x[None, :, top : top + h, left : left + w]
            return F.interpolate(box, (height, width), mode="bilinear", align_corners=False)[0]
    return x


def rotate(x: Tensor, degrees: float) -> Tensor:
    """`x` `(C, H, W)` turned about its centre, bilinear, zeros beyond the border."""
    angle, (_, height, width) = math.radians(degrees), x.shape
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[[cos, sin * height / width, 0.0], [-sin * width / height, cos, 0.0]]])
    grid = F.affine_grid(matrix, [1, *x.shape], align_corners=False)
    return F.grid_sample(x[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def gray(x: Tensor) -> Tensor:
    """The luma `(1, H, W)` of an RGB image (ITU-R BT.601); one channel stays as it is."""
    return (x * _LUMA).sum(0, keepdim=True) if len(x) == 3 else x.mean(0, keepdim=True)


def color_jitter(x: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """Brightness, contrast and, on RGB, saturation and hue, in random order."""
    for which in random.sample(range(4), 4):
        if which == 0:
            x = (x * random.uniform(max(0, 1 - brightness), 1 + brightness)).clamp(0, 1)
        elif which == 1:
            x = _blend(x, gray(x).mean(), random.uniform(max(0, 1 - contrast), 1 + contrast))
        elif which == 2 and len(x) == 3:
            x = _blend(x, gray(x), random.uniform(max(0, 1 - saturation), 1 + saturation))
        elif which == 3 and len(x) == 3 and hue > 0:
            x = shift_hue(x, random.uniform(-hue, hue))
    return x


def _blend(x: Tensor, other: Tensor, share: float) -> Tensor:
    return (share * x + (1 - share) * other).clamp(0, 1)


def shift_hue(x: Tensor, turn: float) -> Tensor:
    """The hue of an RGB image in [0, 1] moved by `turn` of the circle, by way of HSV."""
    value, floor = x.amax(0), x.amin(0)
    chroma = value - floor
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    r, g, b = x
    sixth = torch.where(value == r, (g - b) / safe % 6, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    sixth = (sixth + 6 * turn) % 6
    distance = (torch.tensor([5.0, 3.0, 1.0]).reshape(3, 1, 1) + sixth) % 6
    return value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)


def blur(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian of width `sigma` pixels, as far as a tenth of the image (an odd number of taps), border mirrored."""
    size = max(3, x.shape[-1] // 10 | 1)
    offsets = torch.arange(size) - size // 2
    taps = torch.exp(-0.5 * (offsets / sigma).square())
    taps = taps / taps.sum()
    kernel = torch.outer(taps, taps).expand(len(x), 1, size, size)
    padded = F.pad(x[None], [size // 2] * 4, mode="reflect")
    return F.conv2d(padded, kernel, groups=len(x))[0]
