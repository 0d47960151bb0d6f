"""The comparisons of `edgessl bench objectives`: which data, which encoder, which budget. All objectives of a suite get
the same; nothing is tuned for any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgessl.errors import ConfigError

CONVOLUTIONAL_IMAGES = (
    *("simclr", "moco", "mocov3", "dcl", "nnclr"),
    *("byol", "simsiam", "dino"),
    *("vicreg", "barlow_twins", "tico"),
    *("swav", "deepcluster"),
    *("simmim", "denoising", "vae", "diffusion"),
    *("rotation", "jigsaw", "relative_position"),
    *("predictive_coding", "seed"),
)
SIGNALS = (
    *("simclr", "moco", "mocov3", "dcl", "nnclr", "temporal", "cpc"),
    *("byol", "simsiam", "dino"),
    *("vicreg", "barlow_twins", "tico"),
    *("swav", "deepcluster"),
    *("simmim", "denoising", "vae", "diffusion"),
    *("predictive_coding", "seed"),
)


@dataclass(frozen=True)
class Suite:
    """One comparison.

    Attributes:
        title: for people.
        data: as the command line takes it; `options` are its reader's.
        encoder, encoder_options: from the registry.
        objectives: those that apply to this encoder and this kind of data.
        train: unlabelled samples, drawn from the training split by seed 0; also the bank of labels of the probes.
        test: samples of the test split that are predicted.
        epochs, batch_size, lr: of every run, supervised ones included; adamw.
        teacher: encoder of the teacher that "seed" distils, pretrained with simclr in the same budget.
        variants: encoder and options for objectives that need another one, by objective.
    """

    title: str
    data: str
    encoder: str
    objectives: tuple[str, ...]
    train: int
    test: int
    epochs: int
    batch_size: int = 128
    lr: float = 2e-3
    teacher: str = "ds_cnn_m"
    options: Mapping[str, Any] = field(default_factory=dict)
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)

    def encoder_for(self, objective: str) -> tuple[str, Mapping[str, Any]]:
        """Name and options of the encoder that `objective` trains."""
        return self.variants.get(objective, (self.encoder, self.encoder_options))


SMALL = {"width": 48, "depth": 3, "heads": 3}
TEXT = {"width": 64, "depth": 2, "heads": 4}
CAUSAL = ("token_transformer", {**TEXT, "causal": True})
WORDS = ("word_vectors", {"width": 64})

SUITES = {
    "digits": Suite(
        "Digits of 8 x 8 pixels, minutes and no download", "digits", "ds_cnn_s", CONVOLUTIONAL_IMAGES, 1_400, 360, 20
    ),
    "fashion": Suite(
        "Fashion-MNIST, convolutional encoder",
        "shared:fashion_mnist",
        "ds_cnn_s",
        CONVOLUTIONAL_IMAGES,
        6_000,
        3_000,
        5,
    ),
    "fashion_transformer": Suite(
        "Fashion-MNIST, transformer",
        "shared:fashion_mnist",
        "vit",
        ("simclr", "dino", "simmim", "mae", "beit", "data2vec"),
        3_000,
        3_000,
        5,
        encoder_options=SMALL,
    ),
    "color": Suite(
        "CIFAR-100 subset, colour pictures",
        "shared:cifar100_sub",
        "ds_cnn_s",
        ("simclr", "rotation", "colorization"),
        3_000,
        2_000,
        5,
    ),
    "har": Suite(
        "Activities by phone, unseen people",
        "shared:har_phone_watch",
        "cnn1d",
        SIGNALS,
        3_500,
        3_500,
        12,
        teacher="signal_transformer",
    ),
    "har_transformer": Suite(
        "Activities by phone, unseen people: transformer",
        "shared:har_phone_watch",
        "signal_transformer",
        ("simclr", "simmim", "mae", "beit", "data2vec", "causal", "cpc"),
        3_500,
        3_500,
        12,
        encoder_options=SMALL,
        variants={name: ("signal_transformer", {**SMALL, "causal": True}) for name in ("causal", "cpc")},
    ),
    "speech": Suite(
        "Speech commands, unseen speakers",
        "shared:speech_commands",
        "ds_cnn_s",
        SIGNALS,
        2_000,
        1_200,
        5,
        options={"n_mels": 32, "n_fft": 512, "hop": 256},
    ),
    "pairs": Suite(
        "Phone and watch at once, unseen people",
        "shared:phone_watch_pairs",
        "pair",
        ("clip",),
        3_500,
        3_500,
        12,
        encoder_options={"first_shape": [6, 128], "second_shape": [6, 128]},
    ),
    "text": Suite(
        "Tiny Shakespeare, the next character from a window of 32",
        "shared:tinyshakespeare",
        "token_transformer",
        ("causal", "masked_tokens", "skipgram", "cbow"),
        6_000,
        3_000,
        10,
        options={"window": 32, "stride": 20},
        encoder_options=TEXT,
        variants={
            "causal": CAUSAL,
            "supervised": CAUSAL,
            "skipgram": WORDS,
            "cbow": WORDS,
        },
    ),
}


def suite_of(name: str) -> Suite:
    """The suite registered under `name`.

    Raises:
        ConfigError: no such suite.
    """
    if name not in SUITES:
        raise ConfigError(f"unknown suite {name!r}; choose one of {', '.join(SUITES)}")
    return SUITES[name]
