"""Recipes: what they accept, what they refuse and how, and that they decide the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import ENCODERS
from edgessl.errors import ConfigError
from edgessl.recipe import DEFAULT_ENCODERS, Recipe, advice, build_step, load_recipe, parse_recipe
from edgessl.views import default_views

TOML = """
encoder = { name = "resnet8", options = { norm = "batch" } }
objective = { name = "vicreg", options = { projection = 32 } }
optimizer = "lars"
views = [{ name = "horizontal_flip" }, { name = "resized_crop", options = { scale = [0.5, 1.0] } }]
hyper = { lr = 0.25, clip_norm = 3 }
epochs = 7
precision = "bfloat16"
"""


def test_a_toml_file_becomes_a_step(tmp_path: Path, spec: InputSpec) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TOML)
    recipe = load_recipe(path)
    assert (recipe.epochs, recipe.precision, recipe.batch_size) == (7, "bfloat16", 128)
    assert load_recipe(str(path)) == recipe
    step = build_step(recipe, spec)
    assert step.optimizer.name == "lars"
    assert step.objective.name == "vicreg"
    assert step.parts.projector[-1].out_features == 32
    assert [t.name for t in step.views.pipeline.transforms] == ["horizontal_flip", "resized_crop"]
    assert (step.hyper["lr"], step.hyper["clip_norm"]) == (0.25, 3.0)
    assert step.hyper["momentum"] == 0.9  # what the recipe does not say stays
    kinds = {e.kind for e in step.layout.entries if e.name.startswith("projector")}
    assert "statistic" in kinds  # heads take the encoder's kind of norm


def test_a_recipe_survives_json() -> None:
    recipe = parse_recipe({"hyper": {"lr": 0.1}, "views": [{"name": "rotation", "options": {"degrees": 5.5}}]})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    with pytest.raises(ValidationError):
        recipe.epochs = 3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"epoch": 3}, r"recipe: epoch: .*keys are encoder, objective"),
        ({"encoder": {"name": "vit", "option": {}}}, r"encoder\.option"),
        ({"encoder": "vit"}, "encoder"),
        ({"encoder": {}}, r"encoder\.name"),
        ({"epochs": "many"}, "epochs: .*found 'many'"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"warmup": 1.0}, "warmup"),
        ({"warmup": -0.1}, "warmup"),
        ({"final_lr": 1.1}, "final_lr"),
        ({"seed": -1}, "seed"),
        ({"precision": "float16"}, "precision"),
        ({"hyper": {"lr": "fast"}}, r"hyper\.lr"),
        ({"views": [{"options": {}}]}, r"views\.0\.name"),
        ({"optimizer": {"name": "sgd"}}, "optimizer"),
    ],
)
def test_what_is_not_a_recipe_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_recipe(values)


def test_files_that_are_not_recipes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    with pytest.raises(ConfigError, match=r"r\.toml: cannot be read: No such file"):
        load_recipe(path)
    path.write_text("epochs = ")
    with pytest.raises(ConfigError, match=r"r\.toml: not a TOML file"):
        load_recipe(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"r\.toml: not a TOML file"):
        load_recipe(path)
    path.write_text("epochs = 3\nlearning_rate = 0.1")
    with pytest.raises(ConfigError, match=r"r\.toml: learning_rate"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"encoder": {"name": "resnet50"}}, "unknown encoder 'resnet50'"),
        ({"encoder": {"name": "vit", "options": {"layers": 3}}}, "unknown option 'layers'"),
        ({"encoder": {"name": "ds_cnn_s", "options": {"norm": "instance"}}}, "unknown norm 'instance'"),
        # options that are arguments of the builder, and not of the encoder
        ({"encoder": {"name": "ds_cnn_s", "options": {"seed": 3}}}, "unknown option 'seed'"),
        ({"encoder": {"name": "ds_cnn_s", "options": {"mean": [0.0]}}}, "unknown option 'mean'"),
        ({"objective": {"name": "simclear"}}, "unknown objective 'simclear'"),
        ({"objective": {"name": "byol", "options": {"depth": 3}}}, "no option 'depth'"),
        ({"objective": {"name": "byol", "options": {"hidden": "wide"}}}, "hidden"),
        ({"objective": {"name": "moco", "options": {"queue_size": 0}}}, "queue_size"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'"),
        ({"views": [{"name": "zoom"}]}, "unknown transform 'zoom'"),
        ({"hyper": {"lr": 0.1, "temprature": 0.2}}, "unknown 'temprature'; this recipe has lr, beta1"),
        ({"hyper": {"momentum": 0.9}}, "unknown 'momentum'"),  # of another optimizer
    ],
)
def test_unknown_components_are_refused_when_built(values: dict[str, Any], says: str, spec: InputSpec) -> None:
    with pytest.raises(ConfigError, match=says):
        build_step(parse_recipe(values), spec)


def test_views_default_to_those_of_the_kind() -> None:
    signal = InputSpec("signal", (3, 32), (0.0,) * 3, (1.0,) * 3, "g")
    step = build_step(parse_recipe({"encoder": {"name": "cnn1d"}}), signal)
    assert step.views.pipeline == default_views("signal", (3, 32))
    none = build_step(parse_recipe({"encoder": {"name": "cnn1d"}, "views": []}), signal)
    assert none.views.width == 0


def test_the_encoder_normalises_by_the_spec() -> None:
    spec = InputSpec("image", (3, 8, 8), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "intensity")
    step = build_step(parse_recipe({}), spec)
    assert step.parts.encoder.normalize.mean.ravel().tolist() == pytest.approx(spec.mean)
    assert step.parts.encoder.normalize.std.ravel().tolist() == pytest.approx(spec.std)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_builds_and_steps(name: str) -> None:
    spec, objective = {
        "signal": (InputSpec("signal", (2, 32), (0.0,) * 2, (1.0,) * 2, "g"), "simclr"),
        "image": (InputSpec("image", (1, 8, 8), (0.4,), (0.3,), "intensity"), "simclr"),
        "tokens": (InputSpec("tokens", (1, 8), (0.0,), (1.0,), "bytes", 256), "masked_tokens"),
        "pair": (InputSpec("pair", (2 * 32 + 32,), (0.0,) * 96, (1.0,) * 96, "g | V"), "clip"),
        "features": (InputSpec("features", (8,), (0.0,) * 8, (1.0,) * 8, "ohm"), "simclr"),
    }[ENCODERS[name].kinds[0]]
    if name == "word_vectors":
        objective = "cbow"
    options = {"first_shape": [2, 32], "second_shape": [1, 32]} if name == "pair" else {}
    values = {"encoder": {"name": name, "options": options}, "objective": {"name": objective}, "optimizer": "sgd"}
    step = build_step(parse_recipe(values), spec)
    hyper = {key: torch.tensor(value) for key, value in step.hyper.items()}
    batch, noise = torch.rand(4, *spec.shape), torch.rand(step.noise_shape(4))
    batch = torch.floor(256 * batch) if spec.kind == "tokens" else batch
    after, metrics = step(step.initial_state(), batch, noise, hyper)
    assert torch.isfinite(after["theta"]).all()
    assert float(metrics["grad_norm"]) > 0


SIGNAL = InputSpec("signal", (3, 32), (0.0,) * 3, (1.0,) * 3, "g")


def test_the_default_encoder_is_that_of_the_kind(spec: InputSpec) -> None:
    recipe = parse_recipe({"encoder": {"name": "auto", "options": {"norm": "batch"}}})
    assert recipe.for_kind("image").encoder.model_dump() == {"name": "ds_cnn_s", "options": {"norm": "batch"}}
    assert recipe.for_kind("signal").encoder.name == "cnn1d"
    named = parse_recipe({"encoder": {"name": "vit"}})
    assert named.for_kind("signal") is named
    assert build_step(parse_recipe({}), SIGNAL).parts.encoder.input_shape == (3, 32)
    assert all(kind in ENCODERS[name].kinds for kind, name in DEFAULT_ENCODERS.items())
    with pytest.raises(ConfigError, match="no default encoder for 'smell'; name one of ds_cnn_s"):
        recipe.for_kind("smell")


def test_a_batch_below_the_objectives_least_is_refused_with_advice(spec: InputSpec) -> None:
    recipe = parse_recipe({"objective": {"name": "barlow_twins"}, "batch_size": 4})
    with pytest.raises(ConfigError, match="batch_size 4: barlow_twins needs 8 samples or more") as refused:
        build_step(recipe, spec)
    said = str(refused.value)
    assert "`chunk`" in said
    assert "moco" in said.rpartition("with 4 samples these do")[2]
    assert "barlow_twins" not in said.rpartition("with 4 samples these do")[2]
    assert build_step(recipe.model_copy(update={"batch_size": 8}), spec).objective.min_batch == 8


def test_a_kind_of_input_that_the_objective_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objective rotation takes image.*, not signal; for signal: simclr"):
        build_step(parse_recipe({"objective": {"name": "rotation"}}), SIGNAL)


@pytest.mark.parametrize(
    ("norm", "batch_size", "processes", "warned"),
    [("batch", 31, 1, True), ("batch", 32, 1, False), ("batch", 32, 2, True), ("group", 2, 1, False)],
)
def test_batch_norm_with_few_samples_is_advised_against(
    norm: str, batch_size: int, processes: int, warned: bool
) -> None:
    recipe = parse_recipe({"encoder": {"name": "resnet8", "options": {"norm": norm}}, "batch_size": batch_size})
    found = advice(recipe, processes)
    assert bool(found) is warned
    assert all("use the norm 'group'" in text for text in found)


@pytest.mark.parametrize("chunk", [0, -1, 1.5, "many"])
def test_a_chunk_is_a_number_of_rows(chunk: Any) -> None:
    with pytest.raises(ConfigError, match="chunk"):
        parse_recipe({"chunk": chunk})
