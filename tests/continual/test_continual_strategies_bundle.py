"""A strategy on the whole way: checkpoint, bundle, Learner; onnxruntime and torch take the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgessl.checkpoint import Checkpoint
from edgessl.continual.device_step import device_step
from edgessl.continual.torch_runtime import TorchModel
from edgessl.device import Bundle, Learner
from edgessl.device.bundle.specs import InputSpec
from edgessl.recipe import Part, build_step, parse_recipe
from export import export_bundle
from export.parity import random_fields

torch.set_num_threads(1)

SPEC = InputSpec("signal", (2, 16), (0.1, -0.2), (2.0, 1.5), "g")
RECIPE = parse_recipe(
    {
        "encoder": {"name": "signal_transformer", "options": {"width": 8, "depth": 1, "heads": 1}},
        "objective": {"name": "simclr", "options": {"hidden": 12, "projection": 6}},
        "optimizer": "sgd",
        "views": [{"name": "jitter", "options": {}}],
    }
)
PROBE = random_fields(SPEC, 4, 1)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    step = build_step(RECIPE, SPEC)
    return Checkpoint(RECIPE, SPEC, 5, step.initial_state(), np.zeros((0, 1)), ("step",))


def exported(checkpoint: Checkpoint, folder: Path, strategy: Part) -> Bundle:
    return export_bundle(
        checkpoint, folder / "x.edgessl", calibration=random_fields(SPEC, 40, 3), batch_size=8, strategy=strategy
    )


def live(learner: Learner) -> list[np.ndarray]:
    """Observe, learn, see drift, learn on; the shown embeddings after each."""
    learner.observe(random_fields(SPEC, 80, 5))
    learner.learn(max_steps=2)
    seen = [learner.embed(PROBE)]
    learner._drifted = True  # what a drift event sets; which event is another test's business
    learner.learn(max_steps=3)
    seen.append(learner.embed(PROBE))
    return seen


def both_back_ends_agree(checkpoint: Checkpoint, bundle: Bundle, part: Part, folder: Path) -> dict[str, np.ndarray]:
    """Drive a Learner on onnxruntime and one on torch along the same way; returns the former's slots."""
    step, _ = device_step(checkpoint, strategy=part)
    state = {name: torch.from_numpy(array) for name, array in bundle.state().items()}
    recipe = checkpoint.recipe.model_copy(update={"strategy": part})
    model = TorchModel(recipe, SPEC, step, state, batch_size=8)
    assert model.manifest.strategy == bundle.manifest.strategy
    assert (model.manifest.stores, model.manifest.embed_slot) == (bundle.manifest.stores, bundle.manifest.embed_slot)
    with Learner.open(bundle, folder / "onnx") as a, Learner.open(model, folder / "torch") as b:
        for found, expected in zip(live(a), live(b), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        slots, wanted = a._trainer.state(), b._trainer.state()
        for name in wanted:
            np.testing.assert_allclose(slots[name], wanted[name], rtol=2e-3, atol=2e-4, err_msg=name)
        return slots


def test_ewc_from_checkpoint_to_device(checkpoint: Checkpoint, tmp_path: Path) -> None:
    part = Part(name="ewc")
    bundle = exported(checkpoint, tmp_path, part)
    manifest, state = bundle.manifest, bundle.state()
    assert manifest.strategy is not None
    assert manifest.strategy.name == "ewc"
    assert {"importance", "consolidate"} <= set(manifest.graphs)
    assert {"importance", "consolidate"} <= set(manifest.parity)
    assert "ewc_weight" in manifest.hyper
    # what was pretrained is protected from the first step on, by importances of the calibration samples
    np.testing.assert_array_equal(state["anchor"], state["theta"])
    assert state["importances"].max() > 0
    slots = both_back_ends_agree(checkpoint, bundle, part, tmp_path)
    assert not np.array_equal(slots["anchor"], state["anchor"])
    assert not np.array_equal(slots["importances"], state["importances"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "slot"),
    [
        (Part(name="slow"), "slow"),
        (Part(name="der"), "theta"),
        (Part(name="scale"), "theta"),
        (Part(name="cassle", options={"form": "contrastive", "hidden": 10}), "theta"),
        (Part(name="si"), "theta"),
        (Part(name="gating", options={"hard": True}), "theta"),
    ],
    ids=lambda value: value.name if isinstance(value, Part) else "",
)
def test_others_from_checkpoint_to_device(checkpoint: Checkpoint, tmp_path: Path, part: Part, slot: str) -> None:
    bundle = exported(checkpoint, tmp_path, part)
    assert bundle.manifest.embed_slot == slot
    slots = both_back_ends_agree(checkpoint, bundle, part, tmp_path)
    if slot == "slow":
        assert not np.array_equal(slots["slow"], slots["theta"])


def test_device_step_carries_over_by_name(checkpoint: Checkpoint) -> None:
    before = checkpoint.train_step()
    known = {**checkpoint.state, "momentum": torch.arange(float(before.layout.size))}
    trained = Checkpoint(RECIPE, SPEC, 5, known, np.zeros((0, 1)), ("step",))
    step, state = device_step(trained, strategy=Part(name="cassle"))
    old, new = before.layout.unflatten(known["theta"]), step.layout.unflatten(state["theta"])
    assert set(old) < set(new)
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert not state["momentum"].any()  # with new heads to move, the optimizer starts anew
    assert torch.equal(device_step(trained, strategy=Part(name="ewc"))[1]["momentum"], known["momentum"])
    assert torch.equal(state["anchor"], state["theta"])
    held = step.layout.flatten_module(step.parts)
    assert torch.equal(held, state["theta"])


def test_device_step_without_strategy_is_the_checkpoints(checkpoint: Checkpoint) -> None:
    step, state = device_step(checkpoint)
    assert step.strategy is None
    assert all(torch.equal(state[name], value) for name, value in checkpoint.state.items())


def test_a_recipe_with_a_strategy_survives_the_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"strategy": Part(name="cassle", options={"form": "contrastive"})})
    step = build_step(recipe, SPEC)
    Checkpoint(recipe, SPEC, 0, step.initial_state(), np.zeros((0, 1)), ("step",)).save(tmp_path / "c.safetensors")
    loaded = Checkpoint.load(tmp_path / "c.safetensors")
    assert loaded.recipe == recipe
    found, state = device_step(loaded)
    assert found.strategy == step.strategy
    assert "anchor" in state
