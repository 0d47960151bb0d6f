"""The recipe: what to train and how, as one validated object that a TOML file, the CLI and a checkpoint share.

    encoder = { name = "ds_cnn_s", options = { norm = "group" } }
    objective = { name = "simclr" }
    optimizer = "adamw"
    hyper = { lr = 0.002 }
    epochs = 40

Unknown keys and wrong types are refused.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgessl.device.specs import InputSpec
from edgessl.encoders import build_encoder
from edgessl.errors import ConfigError
from edgessl.objectives import build_objective
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep
from edgessl.views import Pipeline, TwoViews, default_views


class Part(BaseModel):
    """A registered component and its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Recipe(BaseModel):
    """Everything that determines a pretraining run, given the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    encoder: Part = Part(name="ds_cnn_s")
    objective: Part = Part(name="simclr")
    optimizer: str = "adamw"
    views: list[Part] | None = Field(None, description="transforms in order; none: the defaults of the input's kind")
    hyper: dict[str, float] = Field(
        default_factory=dict, description="overrides of optimizer's and objective's defaults"
    )
    batch_size: int = Field(128, ge=2)
    epochs: int = Field(30, ge=1)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    final_lr: float = Field(0.0, ge=0, le=1, description="share of the learning rate left at the end of its cosine")
    seed: int = Field(0, ge=0)
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the networks; losses stay float32")
    compile: bool = Field(False, description="torch.compile the loss (worth it on a GPU)")


def parse_recipe(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain values.

    Raises:
        ConfigError: unknown key, wrong type or a number out of range; the message names the key.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(Recipe.model_fields)
        raise ConfigError(f"{where}: {key}: {first['msg']} (found {first['input']!r}); keys are {known}") from None


def load_recipe(path: str | Path) -> Recipe:
    """Read a TOML recipe; ConfigError when it is missing, not TOML or not a recipe."""
    try:
        values = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    return parse_recipe(values, str(path))


def build_step(recipe: Recipe, spec: InputSpec) -> TrainStep:
    """The training step a recipe describes, for samples of `spec`; initial weights depend on `recipe.seed` alone.

    Raises:
        ConfigError: unknown component, option or hyperparameter.
    """
    options = recipe.encoder.options
    if taken := sorted({"mean", "std", "seed"} & set(options)):
        raise ConfigError(
            f"encoder {recipe.encoder.name}: unknown option {taken[0]!r}; it comes from the data or `seed`"
        )
    encoder = build_encoder(recipe.encoder.name, spec.shape, mean=spec.mean, std=spec.std, seed=recipe.seed, **options)
    pipeline = (
        default_views(spec.kind, spec.shape)
        if recipe.views is None
        else Pipeline.from_json([part.model_dump() for part in recipe.views], spec.shape)
    )
    step = TrainStep(
        encoder,
        build_objective(recipe.objective.name, **recipe.objective.options),
        build_optimizer(recipe.optimizer),
        TwoViews(pipeline),
        seed=recipe.seed,
        norm="batch" if options.get("norm") == "batch" else "layer",
    )
    unknown = sorted(set(recipe.hyper) - set(step.hyper))
    if unknown:
        raise ConfigError(f"hyper: unknown {unknown[0]!r}; this recipe has {', '.join(step.hyper)}")
    step.hyper.update(recipe.hyper)
    return step
