"""data2vec: predict what a teacher makes of the hidden patches in context (Baevski et al. 2022, arXiv 2202.03555)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgessl.encoders import Encoder
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots, moving_average
from edgessl.objectives.beit import hide
from edgessl.objectives.decoders import mask_noise, patch_stage
from edgessl.objectives.functional.masked import check_ratio, masked_mean, random_mask, smooth_l1


@dataclass(frozen=True)
class Data2Vec(Objective):
    """Encoders that cut patches (vit, signal_transformer). Slot `teacher`: the moving average of theta.

    The targets are whole-input features of the teacher, not pixels: the mean of its last `layers` blocks, each token
    standardised, which also keeps a constant answer from being right. Every sample is a problem of its own: any batch
    will do, and 2 is the smallest whose embeddings have a spread to watch. Watch it: this objective can collapse, more
    easily with a fast teacher (`teacher_decay` small) or a large learning rate.
    """

    mask_ratio: float = 0.6
    layers: int = 2
    name: ClassVar[str] = "data2vec"
    family: ClassVar[str] = "masked"
    hyper: ClassVar[dict[str, float]] = {"teacher_decay": 0.99, "transition": 2.0}
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
        """One linear layer; ConfigError for encoders without patches or with fewer blocks than `layers`."""
        patch_stage(encoder, self.name)
        blocks = len(encoder.stage_names) - 2
        if self.layers > blocks:
            raise ConfigError(
                f"objective 'data2vec': expected layers up to the encoder's {blocks}, found {self.layers}"
            )
        width = encoder.feature_shape[1]
        return {"predictor": nn.Linear(width, width)}

    def slots(self, theta: Tensor) -> Slots:
        """The teacher starts as a copy of the network."""
        return {"teacher": theta.clone()}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Smooth L1 at the hidden tokens; squared up to an error of `transition`, absolute beyond."""
        x = network("encoder.normalize", batch.sample)
        tokens = network("encoder.run", x, 0, 0)
        mask = random_mask(batch.noise[:, : tokens.shape[1]], self.mask_ratio)
        features = network("encoder.run", hide(network, x, tokens, mask), 1, -2)
        with torch.no_grad():
            target = self._targets(network.at(slots["teacher"]), x)
        errors = smooth_l1(network("predictor", features) - target, hyper["transition"]).mean(dim=2)
        return Loss(masked_mean(errors, mask, gather), network("encoder.pool", features), {})

    def _targets(self, teacher: Network, x: Tensor) -> Tensor:
        """Mean `(N, L, D)` of the standardised tokens after each of the last `layers` blocks, of unmasked `x`."""
        h = teacher("encoder.run", x, 0, -1 - self.layers)
        outputs = [h]
        for place in range(-self.layers, -1):
            h = teacher("encoder.run", h, place, place)
            outputs.append(h)
        return torch.stack([F.layer_norm(h, h.shape[-1:]) for h in outputs]).mean(dim=0)

    def after_update(self, slots: Slots, theta: Tensor, hyper: Slots) -> Slots:
        """The teacher follows the new theta."""
        return {**slots, "teacher": moving_average(slots["teacher"], theta, hyper["teacher_decay"])}
