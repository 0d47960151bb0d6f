"""Masks, patches and reconstruction losses of masked modelling, as pure functions.

Masks are floats, 1 where a patch is hidden. They come from uniform noise by sorting it, so that every sample hides
exactly the same number of patches and shapes never depend on data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgessl.errors import ConfigError, InputError

MAX_MASKED_TOKENS = 256  # noise columns of a mask over tokens; more tokens than that are refused


def alone(rows: Tensor) -> Tensor:
    """The `gather` of a single process."""
    return rows


def masked_reconstruction_loss(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor,
    normalize_targets: bool = False,
    gather: Callable[[Tensor], Tensor] = alone,
) -> Tensor:
    """Mean squared error over the hidden patches (MAE, He et al. 2022, section 3).

    Args:
        prediction: `(N, L, P)`, P values of each of L patches; target: the same of the input.
        mask: `(N, L)`, 1 where a patch was hidden; visible patches do not count.
        normalize_targets: standardise every target patch first (MAE's "norm-pix"; see `normalize_patches`).
        gather: rows of this process to rows of the joined batch.

    Returns:
        Scalar: the sum of the hidden patches' errors over their number, as in the authors' code (so a sample counts by
        the patches it hides).
    """
    target = normalize_patches(target) if normalize_targets else target
    return masked_mean((prediction - target).square().mean(dim=-1), mask, gather)


def masked_mean(errors: Tensor, mask: Tensor, gather: Callable[[Tensor], Tensor] = alone) -> Tensor:
    """Mean of `errors` `(N, ...)` where `mask`, of the same shape, is 1, over the joined batch of all processes."""
    sums = torch.stack([(errors * mask).flatten(1).sum(dim=1), mask.flatten(1).sum(dim=1)], dim=1)
    total, count = gather(sums).sum(dim=0).unbind()
    return total / count


def normalize_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch of `(N, L, P)` at mean 0 and unit variance: unbiased, `eps` added to it (the authors' code).

    Raises:
        InputError: patches of a single value, which have no variance.
    """
    size = patches.shape[-1]
    if size < 2:
        raise InputError(f"normalize_patches: expected patches of 2 values or more, found {tuple(patches.shape)}")
    centred = patches - patches.mean(dim=-1, keepdim=True)
    variance = centred.square().sum(dim=-1, keepdim=True) / (size - 1)
    return centred / torch.sqrt(variance + eps)


def smooth_l1(error: Tensor, transition: float | Tensor) -> Tensor:
    """Squared, `error^2 / (2 transition)`, up to `transition` > 0, and `|error| - transition / 2` beyond."""
    size = error.abs()
    return torch.where(size < transition, 0.5 * size.square() / transition, size - 0.5 * transition)


def check_ratio(objective: str, option: str, ratio: float) -> None:
    """Raise ConfigError unless `ratio` lies between 0 and 1, both excluded."""
    if not 0 < ratio < 1:
        raise ConfigError(f"objective {objective!r}: option {option!r} takes a number between 0 and 1, found {ratio!r}")


def masked_count(patches: int, ratio: float) -> int:
    """How many of `patches` (2 or more) are hidden: `ratio` of them, rounded, but at least one, and never all."""
    return min(max(round(ratio * patches), 1), patches - 1)


def random_mask(noise: Tensor, ratio: float) -> Tensor:
    """Hide the patches with the largest noise: `(N, L)` uniform numbers to a mask `(N, L)` of `masked_count` ones."""
    patches = noise.shape[1]
    rank = torch.argsort(torch.argsort(noise, dim=1), dim=1)
    return (rank >= patches - masked_count(patches, ratio)).to(noise.dtype)


def visible_selection(noise: Tensor, ratio: float) -> Tensor:
    """Matrices `(N, K, L)` whose products with L tokens `(N, L, D)` are the K visible ones `(N, K, D)`.

    One 1 per row; the visible patches are those `random_mask` leaves, in the order of their noise.
    """
    patches = noise.shape[1]
    order = torch.argsort(noise, dim=1)[:, : patches - masked_count(patches, ratio)]
    return (order.unsqueeze(2) == torch.arange(patches, device=noise.device)).to(noise.dtype)


def block_grid(sizes: Sequence[int], block: Sequence[int]) -> tuple[int, ...]:
    """Blocks along each axis; the last ones are cut where `block` does not divide `sizes`."""
    return tuple(math.ceil(size / length) for size, length in zip(sizes, block, strict=True))


def block_mask(noise: Tensor, sizes: Sequence[int], block: Sequence[int], ratio: float) -> Tensor:
    """Hide whole blocks: spans of signals, rectangles of images and spectrograms.

    Args:
        noise: `(N, prod(block_grid(sizes, block)))`, uniform.
        sizes: the axes after the channels, (T,) or (H, W); block: the block along each.
        ratio: share of the blocks that is hidden.

    Returns:
        `(N, 1, *sizes)`, 1 where hidden: the same for all channels.
    """
    grid = block_grid(sizes, block)
    mask = random_mask(noise, ratio).reshape(-1, 1, *grid)
    for axis, (size, length) in enumerate(zip(sizes, block, strict=True), start=2):
        # repeat every entry `length` times, then cut the last block to size
        shape = list(mask.shape)
        mask = mask.unsqueeze(axis + 1).expand(*shape[: axis + 1], length, *shape[axis + 1 :])
        mask = mask.reshape(*shape[:axis], shape[axis] * length, *shape[axis + 1 :]).narrow(axis, 0, size)
    return mask


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Cut (N, C, T) or (N, C, H, W) into patches (N, L, C * prod(patch)), in row order; values in (C, row, column)
    order, as the transformers' "patches" stage does.

    Args:
        x: the batch; patch: length of a patch along each axis after C, a divisor of it.
    """
    n, channels, *sizes = x.shape
    cut = [number for size, length in zip(sizes, patch, strict=True) for number in (size // length, length)]
    axes = len(patch)
    places, within = [2 + 2 * a for a in range(axes)], [3 + 2 * a for a in range(axes)]
    return x.reshape(n, channels, *cut).permute(0, *places, 1, *within).reshape(n, -1, channels * math.prod(patch))


def unpatchify(patches: Tensor, shape: Sequence[int], patch: Sequence[int]) -> Tensor:
    """The inverse of `patchify`: patches (N, L, C * prod(patch)) to (N, *shape), shape (C, T) or (C, H, W)."""
    channels, *sizes = shape
    grid = block_grid(sizes, patch)
    axes = len(patch)
    order = [0, 1 + axes, *[axis for a in range(axes) for axis in (1 + a, 2 + axes + a)]]
    return patches.reshape(-1, *grid, channels, *patch).permute(*order).reshape(-1, *shape)
