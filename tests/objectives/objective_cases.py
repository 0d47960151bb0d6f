"""One small case per objective: what `test_objectives_contract.py` asks everybody's questions of.

The networks are tiny, so that tracing one for the parity gate takes seconds.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgessl.checkpoint import Checkpoint
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import Encoder, InputNormalization, build_encoder
from edgessl.encoders.norm import ConvNorm
from edgessl.encoders.pool import GlobalMean
from edgessl.objectives import build_objective
from edgessl.optim import build_optimizer
from edgessl.recipe import build_step, parse_recipe
from edgessl.step import TrainStep
from edgessl.views import Pipeline, Transform
from edgessl.views.images import Erase, HorizontalFlip
from edgessl.views.signals import Jitter, Scaling
from edgessl.views.spectrograms import Gain

GRAY = InputSpec("image", (1, 12, 12), (0.4,), (0.3,), "intensity 0..1")
COLOR = InputSpec("image", (3, 12, 12), (0.4, 0.5, 0.6), (0.3, 0.2, 0.3), "intensity 0..1")
SIGNAL = InputSpec("signal", (3, 32), (0.1, 0.0, 9.8), (2.0, 2.0, 3.0), "m/s^2")


def tiny_cnn(spec: InputSpec) -> Encoder:
    """Two convolutions and a mean, in as many dimensions as the input has."""
    convolution: Callable[..., Any] = nn.Conv1d if spec.kind == "signal" else nn.Conv2d
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stages = {
            "stem": ConvNorm(convolution(spec.shape[0], 8, 3, stride=2, padding=1, bias=False), "group"),
            "block1": ConvNorm(convolution(8, 16, 3, padding=1, bias=False), "group"),
            "pool": GlobalMean(),
        }
    return Encoder(stages, spec.shape, InputNormalization(spec.mean, spec.std, len(spec.shape)))


def registered(name: str, **options: Any) -> Callable[[InputSpec], Encoder]:
    """An encoder of the registry with its options."""
    return lambda spec: build_encoder(name, spec.shape, mean=spec.mean, std=spec.std, **options)


@cache
def teacher_file() -> str:
    """A checkpoint of an untrained transformer for samples like GRAY."""
    recipe = parse_recipe({"encoder": {"name": "vit", "options": {"width": 16, "depth": 1, "heads": 2}}, "seed": 7})
    folder = tempfile.mkdtemp(prefix="edgessl-teacher-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "teacher.safetensors"
    Checkpoint(recipe, GRAY, 0, build_step(recipe, GRAY).initial_state(), np.zeros((0, 1)), ("step",)).save(path)
    return str(path)


@dataclass(frozen=True)
class Case:
    """How an objective is tried.

    Attributes:
        spec, encoder: the input, and what builds the encoder for it.
        options: of the objective; small heads.
        batch: samples per step.
        warmup: steps until the loss of a fixed batch can be compared with later ones (a queue fills).
        rises: why the loss of a fixed batch need not fall; "" where it must.
        idle: prefixes of parameters that get no gradient, by design.
        teacher: it takes a checkpoint, made when it is asked for.
    """

    spec: InputSpec = GRAY
    encoder: Callable[[InputSpec], Encoder] = tiny_cnn
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 8
    warmup: int = 0
    rises: str = ""
    idle: tuple[str, ...] = ()
    teacher: bool = False

    def step(self, objective: str, optimizer: str = "adamw") -> TrainStep:
        """A fresh step of the objective called `objective`."""
        pipeline = Pipeline(VIEWS[self.spec.kind], self.spec.shape)
        built = build_objective(objective, **self.options, **({"teacher": teacher_file()} if self.teacher else {}))
        return TrainStep(self.encoder(self.spec), built, build_optimizer(optimizer), pipeline)


# the whole pipelines are traced in tests/views and tests/export
VIEWS: dict[str, tuple[Transform, ...]] = {
    "image": (HorizontalFlip(), Erase()),
    "signal": (Scaling(), Jitter()),
    "spectrogram": (Gain(),),
    "tokens": (),
    "pair": (),
}
HEADS = {"hidden": 16, "projection": 8}
TINY_VIT = registered("vit", width=16, depth=2, heads=2)
TEXT = InputSpec("tokens", (1, 12), (0.0,), (1.0,), "ids of 9 symbols", 9)
PAIR = InputSpec("pair", (3 * 16 + 2 * 24,), (0.1,) * 48 + (0.5,) * 48, (2.0,) * 48 + (0.5,) * 48, "g | V")
PATCHES = registered("signal_transformer", width=16, depth=2, heads=2, causal=True)
TINY_GPT = registered("token_transformer", vocabulary=9, width=16, depth=2, heads=2, causal=True)
TINY_BERT = registered("token_transformer", vocabulary=9, width=16, depth=2, heads=2)
WORDS = registered("word_vectors", vocabulary=9, width=8)
TOWERS = registered(
    "pair",
    **{"first": "signal_transformer", "first_shape": (3, 16), "first_options": {"width": 16, "depth": 1, "heads": 2}},
    **{"second": "signal_transformer", "second_shape": (2, 24), "second_options": {"width": 8, "depth": 1, "heads": 1}},
)
POOL_NORM = ("encoder.stages.pool.",)  # losses on tokens look at them before the pool and its norm
CASES: dict[str, Case] = {
    # contrastive
    "simclr": Case(options=HEADS),
    "moco": Case(options={**HEADS, "queue_size": 20}, warmup=4),
    "mocov3": Case(options=HEADS),
    "dcl": Case(
        options={**HEADS, "queue_size": 20}, rises="a queue of a fixed batch holds its positives among the negatives"
    ),
    "nnclr": Case(options={**HEADS, "queue_size": 20}, warmup=4),
    "temporal": Case(spec=SIGNAL, options=HEADS),
    "clip": Case(spec=PAIR, encoder=TOWERS, options={"projection": 8}),
    # distillation
    "byol": Case(options=HEADS),
    "simsiam": Case(options={**HEADS, "bottleneck": 4}),
    "dino": Case(options={**HEADS, "prototypes": 12, "local_views": 1}),
    "seed": Case(options={"hidden": 16, "queue_size": 20}, warmup=4, teacher=True),
    # redundancy
    "vicreg": Case(options=HEADS),
    "barlow_twins": Case(options=HEADS),
    "tico": Case(options=HEADS, rises="the moving second moment fills from zero"),
    # clustering
    "swav": Case(options={**HEADS, "prototypes": 6, "queue_size": 4, "local_views": 1}),
    "deepcluster": Case(options={**HEADS, "clusters": 6}),
    "orchestra": Case(options={**HEADS, "clusters": 6, "memory": 20}),
    # masked
    "mae": Case(encoder=TINY_VIT, options={"decoder_width": 16}, idle=POOL_NORM),
    "simmim": Case(spec=SIGNAL, options={"decoder_width": 8}),
    "beit": Case(encoder=TINY_VIT, options={"codes": 12, "code_size": 4}, idle=POOL_NORM),
    "data2vec": Case(encoder=TINY_VIT, idle=POOL_NORM),
    "masked_tokens": Case(spec=TEXT, encoder=TINY_BERT, idle=POOL_NORM),
    # generative
    "denoising": Case(options={"decoder_width": 8}),
    "vae": Case(options={"latent": 4, "decoder_width": 8}),
    "diffusion": Case(options={"decoder_width": 8}),
    # pretext
    "rotation": Case(options={"hidden": 16}),
    "jigsaw": Case(options={"hidden": 16}),
    "relative_position": Case(options={"hidden": 16}),
    "colorization": Case(spec=COLOR, options={"decoder_width": 8}),
    # predictive
    "causal": Case(spec=TEXT, encoder=TINY_GPT, idle=POOL_NORM),
    "cpc": Case(spec=SIGNAL, options={"hidden": 8}),
    "skipgram": Case(spec=TEXT, encoder=WORDS),
    "cbow": Case(spec=TEXT, encoder=WORDS),
    "predictive_coding": Case(),
}
