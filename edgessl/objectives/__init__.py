"""Self-supervised objectives, one file each, behind one registry."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgessl.errors import ConfigError
from edgessl.objectives.barlow_twins import BarlowTwins
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.beit import BEiT
from edgessl.objectives.byol import BYOL
from edgessl.objectives.causal import Causal
from edgessl.objectives.cbow import CBOW
from edgessl.objectives.clip import CLIP
from edgessl.objectives.colorization import Colorization
from edgessl.objectives.cpc import CPC
from edgessl.objectives.data2vec import Data2Vec
from edgessl.objectives.dcl import DCL
from edgessl.objectives.deepcluster import DeepCluster
from edgessl.objectives.denoising import Denoising
from edgessl.objectives.diffusion import Diffusion
from edgessl.objectives.dino import DINO
from edgessl.objectives.jigsaw import Jigsaw
from edgessl.objectives.mae import MAE
from edgessl.objectives.masked_tokens import MaskedTokens
from edgessl.objectives.moco import MoCo
from edgessl.objectives.mocov3 import MoCoV3
from edgessl.objectives.nnclr import NNCLR
from edgessl.objectives.orchestra import Orchestra
from edgessl.objectives.predictive_coding import PredictiveCoding
from edgessl.objectives.relative_position import RelativePosition
from edgessl.objectives.rotation import RotationPrediction
from edgessl.objectives.seed import SEED
from edgessl.objectives.simclr import SimCLR
from edgessl.objectives.simmim import SimMIM
from edgessl.objectives.simsiam import SimSiam
from edgessl.objectives.skipgram import SkipGram
from edgessl.objectives.swav import SwAV
from edgessl.objectives.temporal import Temporal
from edgessl.objectives.tico import TiCo
from edgessl.objectives.vae import VAE
from edgessl.objectives.vicreg import VICReg

__all__ = ["OBJECTIVES", "Batch", "Gather", "Loss", "Network", "Objective", "Slots", "build_objective"]

_CLASSES: tuple[type[Objective], ...] = (
    SimCLR, MoCo, MoCoV3, DCL, NNCLR, Temporal, CLIP,  # contrastive
    BYOL, SimSiam, DINO, SEED,  # distillation
    VICReg, BarlowTwins, TiCo,  # redundancy
    SwAV, DeepCluster, Orchestra,  # clustering
    MAE, SimMIM, BEiT, Data2Vec, MaskedTokens,  # masked
    Denoising, VAE, Diffusion,  # generative
    RotationPrediction, Jigsaw, RelativePosition, Colorization,  # pretext
    Causal, CPC, SkipGram, CBOW, PredictiveCoding,  # predictive
)  # fmt: skip

OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in _CLASSES}


def build_objective(name: str, **options: Any) -> Objective:
    """The objective registered under `name`, with its options.

    Raises:
        ConfigError: unknown name, or an option this objective does not have.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"unknown objective {name!r}; choose one of {', '.join(OBJECTIVES)}")
    cls = OBJECTIVES[name]
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for option, value in options.items():
        if option not in defaults:
            raise ConfigError(f"objective {name!r} has no option {option!r}; it has {', '.join(defaults)}")
        kind = type(defaults[option])
        least = min(1, defaults[option]) if kind is int else 0
        if type(value) is not kind or (kind is int and value < least):
            wanted = f"an integer of at least {least}" if kind is int else kind.__name__
            raise ConfigError(f"objective {name!r}: option {option!r} takes {wanted}, found {value!r}")
    return cls(**options)
