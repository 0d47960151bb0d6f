"""The pretraining bench: that the plain loop does the same work, and that the figures are what they say."""

from __future__ import annotations

import colorsys
import io
import json
import math
import random
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from edgessl.bench.pretrain.run import CPU_BACKENDS, UNMEASURED, run
from edgessl.bench.pretrain.torch_loop import (
    NTXent,
    TwoCrops,
    blur,
    color_jitter,
    gray,
    like,
    resized_crop,
    rotate,
    shift_hue,
)
from edgessl.bench.pretrain.worker import Turns, flops_per_view, plain_loop
from edgessl.bench.step.table import pretrain_table
from edgessl.device.bundle.specs import InputSpec
from edgessl.errors import ConfigError
from edgessl.recipe import build_step, parse_recipe
from edgessl.step import TrainStep, hyper_tensors
from edgessl.views import default_views

SPEC = InputSpec("image", (3, 16, 16), (0.5,) * 3, (0.25,) * 3, "intensity")


def make_step(**more: Any) -> TrainStep:
    return build_step(parse_recipe({"batch_size": 8, **more}), SPEC)


def test_the_plain_loop_takes_the_steps_of_ours() -> None:
    # without views both see the sample twice; the plain loop decays biases and does not clip: neither happens here
    step = make_step(views=[], hyper={"weight_decay": 0.0, "lr": 0.003, "clip_norm": 1e6})
    batches = [torch.rand(8, *SPEC.shape, generator=torch.Generator().manual_seed(t)) for t in range(4)]
    state, ours = step.initial_state(), []
    for batch in batches:
        state, metrics = step(state, batch, torch.zeros(step.noise_shape(8)), hyper_tensors(step.hyper))
        ours.append(float(metrics["loss"]))
    loop = plain_loop(step, torch.device("cpu"))
    losses = [float(loop.step(batch, batch)) for batch in batches]
    np.testing.assert_allclose(losses, ours, rtol=1e-4)
    assert len(set(losses)) == 4
    found, start = step.layout.flatten_module(step.parts), step.initial_state()["theta"]
    assert (found - state["theta"]).norm() < 1e-2 * (state["theta"] - start).norm()  # Adam magnifies rounding


def test_the_loss_is_nt_xent() -> None:
    n = torch.arange(1, 31, dtype=torch.float64).reshape(6, 5)
    a = n.sin()
    b = a + 0.3 * (2 * n).cos()
    assert float(NTXent(0.5)(a, b)) == pytest.approx(1.1049868322, abs=1e-6)  # lightly 1.6, float64
    assert float(NTXent(0.1)(a, b)) == pytest.approx(0.4039635765, abs=1e-6)


def image(channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(channels, size, size, generator=torch.Generator().manual_seed(0))


def test_hue_is_colorsys() -> None:
    x, turned = image(), shift_hue(image(), 0.3)
    for row, column in ((0, 0), (3, 7), (15, 2)):
        h, s, v = colorsys.rgb_to_hsv(*x[:, row, column].tolist())
        expected = colorsys.hsv_to_rgb((h + 0.3) % 1.0, s, v)
        assert turned[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(shift_hue(x, 1.0), x, atol=1e-5, rtol=0)
    grays = torch.full((3, 2, 2), 0.4)
    torch.testing.assert_close(shift_hue(grays, 0.3), grays)


def test_a_quarter_turn_is_rot90() -> None:
    x = image()
    torch.testing.assert_close(rotate(x, 0.0), x, atol=1e-5, rtol=0)
    turned = rotate(x, 90.0)
    either = [torch.rot90(x, k, (1, 2)) for k in (1, 3)]
    assert any(torch.allclose(turned, expected, atol=1e-4) for expected in either)


def test_crop_blur_and_gray() -> None:
    x = image()
    torch.testing.assert_close(resized_crop(x, (1.0, 1.0), (1.0, 1.0)), x)
    ramp = (torch.arange(16) / 16).expand(3, 16, 16)
    crop = resized_crop(ramp, (0.25, 0.25), (1.0, 1.0))  # 8 pixels stretched to 16: half the slope
    torch.testing.assert_close(crop.diff(dim=2)[:, :, 1:-1], torch.full((3, 16, 13), 1 / 32))
    torch.testing.assert_close(crop.diff(dim=1), torch.zeros(3, 15, 16))
    flat = torch.full((3, 16, 16), 0.7)
    torch.testing.assert_close(blur(flat, 1.0), flat)
    assert blur(x, 2.0).var() < x.var()
    assert gray(x)[0, 1, 2].item() == pytest.approx(0.299 * x[0, 1, 2] + 0.587 * x[1, 1, 2] + 0.114 * x[2, 1, 2])
    torch.testing.assert_close(color_jitter(x, 0.0, 0.0, 0.0, 0.0), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_the_default_views_have_a_plain_counterpart(shape: tuple[int, ...]) -> None:
    augment = like(default_views("image", shape))
    data = TwoCrops(torch.rand(4, *shape), augment)
    random.seed(1)
    a, b = data[2]
    assert len(data) == 4
    assert a.shape == b.shape == shape
    assert not torch.equal(a, b)
    assert torch.isfinite(a).all()
    assert a.amin() >= -1e-5
    assert a.amax() <= 1 + 1e-5


def test_flops_are_counted_by_hand() -> None:
    step = make_step(encoder={"name": "resnet8"})
    forward: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        per_output = weight[0].numel()  # multiply-adds behind one output value
        forward.append(2 * out[0].numel() * per_output)

    hooks = [m.register_forward_hook(count) for m in step.parts.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    x = torch.rand(1, *SPEC.shape)
    step.parts("projector", step.parts("encoder", x))
    for hook in hooks:
        hook.remove()
    # backward: as much again for the weights and for the inputs, but nobody asks for the image's gradient
    assert flops_per_view(step) == 3 * sum(forward) - forward[0]


def test_a_turn_counts_views_by_the_clock() -> None:
    answers: list[dict[str, Any]] = []
    left = [True, False]
    job: Any = {"batch_size": 10, "seconds": 0.2, "device": "cpu"}
    turns = Turns(job, lambda: left.pop(0), answers.append)
    steps, over = 0, False
    while not over:
        time.sleep(0.01)
        steps += 1
        over = turns.over()
    assert len(answers) == 2
    for answer in answers:
        (rate,) = answer["views_per_s"]
        assert 20 / 0.2 < rate <= 20 / 0.01  # 20 views a step, at least 10 ms each
    assert steps > 2 * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoders": []}, "encoders"),
        ({"encoders": ["cnn1d"]}, "encoders: expected some of ds_cnn_s"),
        ({"threads": [0]}, "threads"),
        ({"batch_size": 1}, "batches of 2"),
        ({"samples": 64}, "at least one"),
        ({"turns": 0}, "turns"),
        ({"turn_seconds": 0.0}, "turn_seconds"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**options)


def test_the_table_shows_figures_failures_and_what_was_skipped() -> None:
    head = {"encoder": "ds_cnn_s", "device": "cpu", "threads": 1}
    measured = {"views_per_s": 1234.5, "ratio": 1.5, "input_wait_share": 0.012, "fraction_of_peak": 0.25}
    rows = [
        {**head, **dict.fromkeys(UNMEASURED), "backend": "edgessl", "error": None, **measured, "peak_rss_mb": 456.0},
        {**head, **dict.fromkeys(UNMEASURED), "backend": "torch", "error": "RuntimeError: no [memory]"},
    ]
    result = {
        "machine": {"cpu": "AMD EPYC", "cores": 2},
        "settings": {"batch_size": 128},
        "warnings": [],
        "skipped": ["GPU: none"],
        "rows": rows,
    }
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(pretrain_table(result))
    text = console.export_text()
    for part in ("1,234", "1.50", "1.2%", "25.0%", "456", "failed", "RuntimeError: no [memory]", "GPU: none"):
        assert part in text


@pytest.mark.slow
def test_the_whole_result() -> None:
    said: list[str] = []
    result = run(["ds_cnn_s"], [1], batch_size=8, samples=64, turns=2, turn_seconds=0.2, progress=said.append)
    assert json.loads(json.dumps(result)) == result
    assert [row["backend"] for row in result["rows"] if row["device"] == "cpu"] == list(CPU_BACKENDS)
    for row in result["rows"]:
        assert row["error"] is None
        assert row["views_per_s"] == pytest.approx(np.median(row["turns_views_per_s"]), abs=0.2)
        assert 0 <= row["input_wait_share"] < 1
        assert 0 < row["fraction_of_peak"] < 1
        assert row["peak_rss_mb"] > 100
    plain = [row["views_per_s"] for row in result["rows"] if row["backend"].startswith("torch")]
    ours = result["rows"][0]
    assert ours["ratio"] == pytest.approx(ours["views_per_s"] / max(plain), rel=1e-2)
    assert result["skipped"] or torch.cuda.is_available()
    assert all(a != b for a, b in pairwise(said))
    assert math.isfinite(ours["views_per_s"])
