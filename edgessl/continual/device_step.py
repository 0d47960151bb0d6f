"""The step a device runs, built from a pretrained checkpoint: what was learned is carried over by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from edgessl.checkpoint import Checkpoint
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders.cut import cut_encoder
from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout
from edgessl.recipe import Part, build_step
from edgessl.step import State, TrainStep
from edgessl.views.latents import token_views


def device_step(
    checkpoint: Checkpoint,
    *,
    strategy: Part | None = None,
    cut: str | None = None,
    latent_views: Sequence[Part] | None = None,
) -> tuple[TrainStep, State]:
    """The training step of `checkpoint` with `strategy`, and the state it starts from.

    Args:
        checkpoint: what was pretrained.
        strategy: a continual strategy by its name in the registry, and its options; None keeps the recipe's own.
        cut: a stage of the encoder: what lies behind it is trained, from latents; None trains everything, from samples.
        latent_views: with a cut, the views of latents; None takes the defaults of edgessl.views.

    Returns:
        The step, its networks holding the state's weights, and the state: parameters and objective go on where
        pretraining ended, the strategy's heads and slots are fresh and take the pretrained network for the past. The
        optimizer goes on too, but starts anew where a cut or new heads change what it moves.

    Raises:
        ConfigError: unknown strategy or option, or one that does not go with this objective or input; a cut that is not
            possible, or views of latents without one.
    """
    before = checkpoint.train_step()
    if latent_views is not None and cut is None:
        raise ConfigError("latent_views: only a step with a cut sees latents; give the cut, or set the recipe's views")
    if strategy is None and cut is None:
        return before, dict(checkpoint.state)
    recipe = checkpoint.recipe if strategy is None else checkpoint.recipe.model_copy(update={"strategy": strategy})
    if cut is None:
        step = build_step(recipe, checkpoint.input)
    else:
        backbone, tail = cut_encoder(before.parts.encoder, cut, recipe.seed)
        views = latent_views
        if views is None and backbone.tokenized and len(tail.input_shape) == 2:
            views = [Part(name=view.name, options=asdict(view)) for view in token_views()]
        step = build_step(recipe.model_copy(update={"views": views}), latent_spec(tail.input_shape), tail)
    state = carried(checkpoint.state, before.layout, step.initial_state(), step.layout)
    if step.layout != before.layout:
        # new heads' moments start at 0; beside AdamW's old count of updates their steps would be up to 6 times too long
        state |= step.optimizer.slots(state["theta"])
    if step.strategy is not None:
        state |= step.strategy.slots(state["theta"], step.layout)
    step.layout.load_module(step.parts, state["theta"])
    return step, state


def latent_spec(shape: tuple[int, ...]) -> InputSpec:
    """Latents of `shape` before any was seen."""
    return InputSpec("latent", shape, (0.0,) * shape[0], (1.0,) * shape[0], "activation")


def carried(old: State, old_layout: ParameterLayout, new: State, layout: ParameterLayout) -> State:
    """`new` with everything that `old` has too: whole slots of the same shape, and flat vectors entry by entry.

    Entries go by name and shape; what `old` does not have stays as it is in `new`.
    """
    state = {}
    for name, fresh in new.items():
        known = old.get(name)
        if known is None:
            state[name] = fresh
        elif known.shape == (old_layout.size,) and fresh.shape == (layout.size,):
            past = old_layout.unflatten(known)
            pieces = layout.unflatten(fresh)
            same = {key: past[key] for key in pieces if key in past and past[key].shape == pieces[key].shape}
            state[name] = layout.flatten({**pieces, **same})
        else:
            state[name] = known if known.shape == fresh.shape else fresh
    return state
