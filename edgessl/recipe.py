"""The recipe: what to train and how, as one validated object that a TOML file, the CLI and a checkpoint share.

    encoder = { name = "ds_cnn_s", options = { norm = "group" } }
    objective = { name = "simclr" }
    optimizer = "adamw"
    hyper = { lr = 0.002 }
    epochs = 40

Unknown keys and wrong types are refused. An encoder called "auto" is the default of the input's kind.

Where memory is short, set `chunk`: the encoder then takes that many rows at a time and recomputes their activations in
the backward pass. For losses that couple samples this is GradCache (Gao et al. 2021, arXiv 2101.06983), and it makes
gradient accumulation needless: the loss is that of the whole batch, not of its pieces.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgessl.continual.strategies import Strategy, build_strategy
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import ENCODERS, BatchNorm, Encoder, build_encoder
from edgessl.encoders.fake_quant import quantization_aware
from edgessl.errors import ConfigError
from edgessl.objectives import OBJECTIVES, Objective, build_objective
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep
from edgessl.views import Pipeline, default_views

AUTO = "auto"
DEFAULT_ENCODERS = {
    "image": "ds_cnn_s",
    "spectrogram": "ds_cnn_s",
    "signal": "cnn1d",
    "tokens": "token_transformer",
    "pair": "pair",
    "features": "mlp",
}
SMALL_BATCH = 32  # samples below which batch statistics are mostly noise (Wu and He 2018, figure 1)


class Part(BaseModel):
    """A registered component and its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class QuantizationAware(BaseModel):
    """Bits to which the encoder's weights and activations are rounded while it trains."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight_bits: int = Field(8, ge=2, le=8)
    activation_bits: int = Field(8, ge=2, le=8)


class Recipe(BaseModel):
    """Everything that determines a pretraining run, given the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    encoder: Part = Part(name="auto")
    objective: Part = Part(name="simclr")
    optimizer: str = "adamw"
    strategy: Part | None = Field(None, description="against forgetting; none: plain training on what the memory draws")
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
    quantization: QuantizationAware | None = Field(None, description="round the encoder as int8 will, while it trains")
    chunk: int | None = Field(None, ge=1, description="rows per encoder pass, recomputed in the backward pass")

    def for_kind(self, kind: str) -> Recipe:
        """This recipe with the encoder's name settled for input of `kind`.

        Raises:
            ConfigError: the encoder is "auto" and no encoder is the default of this kind.
        """
        if self.encoder.name != AUTO:
            return self
        if kind not in DEFAULT_ENCODERS:
            raise ConfigError(f"no default encoder for {kind!r}; name one of {', '.join(ENCODERS)}")
        encoder = Part(name=DEFAULT_ENCODERS[kind], options=self.encoder.options)
        return self.model_copy(update={"encoder": encoder})


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


def encoder_of(part: Part, spec: InputSpec, seed: int) -> Encoder:
    """The encoder that a recipe names, for samples of `spec`, with its initial weights.

    Raises:
        ConfigError: unknown encoder or option, or an option that is not the recipe's to choose.
    """
    if taken := sorted({"mean", "std", "seed", "vocabulary"} & set(part.options)):
        raise ConfigError(f"encoder {part.name}: unknown option {taken[0]!r}; it comes from the data or `seed`")
    known = {"vocabulary": spec.vocabulary, **part.options} if spec.kind == "tokens" else part.options
    return build_encoder(part.name, spec.shape, mean=spec.mean, std=spec.std, seed=seed, **known)


def build_step(recipe: Recipe, spec: InputSpec, encoder: Encoder | None = None) -> TrainStep:
    """The training step a recipe describes, for samples of `spec`; initial weights depend on `recipe.seed` alone.

    Args:
        recipe: what to train and how.
        spec: what one sample is.
        encoder: what is trained instead of the recipe's encoder, with the weights it has: the tail behind a cut.

    Raises:
        ConfigError: unknown component, option or hyperparameter, or components that do not go together.
    """
    if encoder is None:
        recipe = recipe.for_kind(spec.kind)
    objective = build_objective(recipe.objective.name, **recipe.objective.options)
    strategy = build_strategy(recipe.strategy.name, **recipe.strategy.options) if recipe.strategy else None
    _check_fit(recipe, objective, strategy, spec)
    encoder = encoder or encoder_of(recipe.encoder, spec, recipe.seed)
    if recipe.quantization is not None:
        quantization_aware(encoder, recipe.quantization.weight_bits, recipe.quantization.activation_bits)
    if recipe.chunk is not None and any(isinstance(module, BatchNorm) for module in encoder.modules()):
        raise ConfigError("chunk: batch norm would take each chunk for a batch of its own; use the norm 'group'")
    pipeline = (
        default_views(spec.kind, spec.shape)
        if recipe.views is None
        else Pipeline.from_json([part.model_dump() for part in recipe.views], spec.shape)
    )
    step = TrainStep(
        encoder,
        objective,
        build_optimizer(recipe.optimizer),
        pipeline,
        seed=recipe.seed,
        norm="batch" if recipe.encoder.options.get("norm") == "batch" else "layer",
        strategy=strategy,
    )
    unknown = sorted(set(recipe.hyper) - set(step.hyper))
    if unknown:
        raise ConfigError(f"hyper: unknown {unknown[0]!r}; this recipe has {', '.join(step.hyper)}")
    step.hyper.update(recipe.hyper)
    return step


def advice(recipe: Recipe, processes: int = 1) -> list[str]:
    """What is allowed but seldom wise about a recipe, in sentences; `processes` share its batch."""
    share = recipe.batch_size // processes
    if recipe.encoder.options.get("norm") == "batch" and share < SMALL_BATCH:
        return [
            f"batch norm takes its statistics from {share} samples here; below {SMALL_BATCH} they are mostly noise: "
            "use the norm 'group', which does not see the batch, or a larger batch"
        ]
    return []


def _check_fit(recipe: Recipe, objective: Objective, strategy: Strategy | None, spec: InputSpec) -> None:
    encoder = ENCODERS.get(recipe.encoder.name)
    if encoder is not None and spec.kind not in (*encoder.kinds, "latent"):
        fit = [name for name, entry in ENCODERS.items() if spec.kind in entry.kinds]
        raise ConfigError(
            f"encoder {recipe.encoder.name} takes {', '.join(encoder.kinds)}, not {spec.kind}; "
            f"for {spec.kind}: {', '.join(fit)}"
        )
    able = {name: found for name, found in OBJECTIVES.items() if spec.kind in found.kinds}
    if spec.kind not in objective.kinds:
        raise ConfigError(
            f"objective {objective.name} takes {', '.join(objective.kinds)}, not {spec.kind}; "
            f"for {spec.kind}: {', '.join(able) or 'none'}"
        )
    if strategy and strategy.kinds and spec.kind not in strategy.kinds:
        raise ConfigError(f"strategy {strategy.name} takes {', '.join(strategy.kinds)}, not {spec.kind}")
    if recipe.batch_size < objective.min_batch:
        content = [name for name, found in able.items() if found.min_batch <= recipe.batch_size]
        raise ConfigError(
            f"batch_size {recipe.batch_size}: {objective.name} needs {objective.min_batch} samples or more. Where "
            f"memory is short, `chunk` (rows per encoder pass) makes a larger batch fit; with {recipe.batch_size} "
            f"samples these do: {', '.join(content) or 'none'}"
        )
