"""Tokens, pairs and features all the way: pretrained, exported, learning on in the device's learner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgessl.data import PairedSource, Source, array_source, token_windows
from edgessl.device import Learner
from edgessl.errors import InputError
from edgessl.pretrain import pretrain
from edgessl.recipe import parse_recipe
from export.bundle import export_bundle

torch.set_num_threads(1)

SMALL = {"width": 16, "depth": 1, "heads": 2}
TOWERS = {
    "first": "signal_transformer", "first_shape": [2, 16], "first_options": SMALL,
    "second": "signal_transformer", "second_shape": [1, 24], "second_options": SMALL,
}  # fmt: skip


def source(kind: str) -> Source:
    rng = np.random.default_rng(0)
    if kind == "tokens":
        return token_windows(rng.integers(0, 11, 1000), window=12, vocabulary=11)
    if kind == "features":
        return array_source(rng.normal(5, 2, (80, 12)).astype(np.float32), kind="features")
    sides = [
        array_source(rng.normal(5, 2, (80, *shape)).astype(np.float32), kind="signal", layout="channels_first")
        for shape in ((2, 16), (1, 24))
    ]
    return PairedSource(*sides)


@pytest.mark.parametrize(
    ("kind", "objective", "options"),
    [
        pytest.param("tokens", "causal", {**SMALL, "causal": True}, marks=pytest.mark.slow),
        pytest.param("pair", "clip", TOWERS, marks=pytest.mark.slow),
        ("features", "vicreg", {"width": 16}),
    ],
)
def test_from_data_to_device(kind: str, objective: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = source(kind)
    values = {"encoder": {"name": "auto", "options": options}, "objective": {"name": objective}}
    checkpoint = pretrain(parse_recipe({**values, "batch_size": 16, "epochs": 2}), data)
    bundle = export_bundle(checkpoint, tmp_path / "a.edgessl", calibration=None, batch_size=8)
    assert bundle.manifest.input == checkpoint.input
    assert (bundle.manifest.input.kind, bundle.manifest.input.vocabulary) == (kind, 11 if kind == "tokens" else 0)
    samples = data.take(np.arange(40))
    with Learner.open(bundle, tmp_path / "state", memory_bytes=1 << 16) as learner:
        z = learner.observe(samples)
        with torch.no_grad():
            np.testing.assert_allclose(z, checkpoint.encoder()(torch.from_numpy(samples)), rtol=1e-3, atol=1e-4)
        before = learner.theta
        assert learner.learn(max_steps=3).steps == 3
        assert not np.array_equal(before, learner.theta)
        if kind == "tokens":
            with pytest.raises(InputError, match="whole numbers from 0 to 10, found 11"):
                learner.observe(np.full((1, 12), 11, np.float32))
