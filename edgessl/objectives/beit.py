"""BEiT-style masked modelling with discrete targets: predict the code of each hidden patch.

Bao et al. 2022 (arXiv 2106.08254) take the codes from a trained tokenizer; here they are those of BEST-RQ (Chiu et al.
2022, arXiv 2202.01855): a random projection and a random codebook, both fixed, which need no training and no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import Patches, mask_noise, patch_stage
from edgessl.objectives.functional.masked import check_ratio, masked_mean, random_mask
from edgessl.objectives.functional.rows import normalize
from edgessl.objectives.functional.sequence import token_cross_entropy
from edgessl.objectives.token_heads import Predictor


class RandomQuantizer(nn.Module):
    """Patches (N, L, P) to codes (N, L): the nearest of `codes` random unit vectors to the patch's random projection.

    Both are buffers, hence fixed entries of theta: the same codes on every device and after every restart. The
    projection takes a patch's mean at the weight of one value rather than of all P, or brightness alone would choose
    the code: the perplexity of 256 codes on 4 x 4 patches of cifar100_sub is then 77 instead of 23 (tests/objectives).
    """

    projection: Tensor
    codebook: Tensor

    def __init__(self, values: int, size: int, codes: int) -> None:
        super().__init__()
        projection = nn.init.xavier_uniform_(torch.empty(values, size))
        projection = projection - (1 - values**-0.5) * projection.mean(dim=0)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", normalize(torch.randn(codes, size)))

    def forward(self, patches: Tensor) -> Tensor:
        """The codes, int64; lengths do not matter, so the nearest is the one at the smallest angle (eq. 1)."""
        with torch.autocast(patches.device.type, enabled=False):  # bfloat16 would give other codes
            return torch.argmax(patches @ self.projection @ self.codebook.T, dim=-1)


@dataclass(frozen=True)
class BEiT(Objective):
    """Encoders that cut patches (vit, signal_transformer); no slots.

    Every sample is a problem of its own: any batch will do, and 2 is the smallest whose embeddings have a spread to
    watch. It takes the sample as it came; the mask is the augmentation.
    """

    mask_ratio: float = 0.4
    codes: int = 256
    code_size: int = 16
    name: ClassVar[str] = "beit"
    family: ClassVar[str] = "masked"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal")

    def __post_init__(self) -> None:
        check_ratio(self.name, "mask_ratio", self.mask_ratio)

    def crops(self) -> tuple[int, int]:
        """No views."""
        return (0, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """One number per token."""
        return mask_noise(shape)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The quantizer, and a norm and linear layer that predict codes; ConfigError for encoders without patches."""
        stage = patch_stage(encoder, self.name)
        return {
            "patches": Patches(stage),
            "quantizer": RandomQuantizer(stage.embed.in_features, self.code_size, self.codes),
            "predictor": Predictor(encoder.feature_shape[1], self.codes),
        }

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Cross-entropy of the hidden patches' codes."""
        x = network("encoder.normalize", batch.sample)
        codes = network("quantizer", network("patches", x))
        tokens = network("encoder.run", x, 0, 0)
        mask = random_mask(batch.noise[:, : tokens.shape[1]], self.mask_ratio)
        features = network("encoder.run", hide(network, x, tokens, mask), 1, -2)
        errors = token_cross_entropy(network("predictor", features), codes)
        return Loss(masked_mean(errors, mask, gather), network("encoder.pool", features), {})


def hide(network: Network, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """`tokens` (N, L, D) of the normalised input `x` with those of an empty patch where `mask` (N, L) is 1.

    An empty patch embeds as bias and position, so the bias is the learned mask token, and nothing new is needed.
    """
    empty = network("encoder.run", torch.zeros_like(x[:1]), 0, 0)
    return torch.where(mask.unsqueeze(2) > 0, empty, tokens)
