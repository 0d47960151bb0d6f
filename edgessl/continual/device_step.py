"""The step a device runs, built from a pretrained checkpoint: what was learned is carried over by name."""

from __future__ import annotations

from edgessl.checkpoint import Checkpoint
from edgessl.layout import ParameterLayout
from edgessl.recipe import Part, build_step
from edgessl.step import State, TrainStep


def device_step(checkpoint: Checkpoint, *, strategy: Part | None = None) -> tuple[TrainStep, State]:
    """The training step of `checkpoint` with `strategy`, and the state it starts from.

    Args:
        checkpoint: what was pretrained.
        strategy: a continual strategy by its name in the registry, and its options; None keeps the recipe's own.

    Returns:
        The step, its networks holding the state's weights, and the state: parameters, optimizer and objective go on
        where pretraining ended, the strategy's heads and slots are fresh and take the pretrained network for the past.

    Raises:
        ConfigError: unknown strategy or option, or one that does not go with this objective or input.
    """
    before = checkpoint.train_step()
    if strategy is None:
        return before, dict(checkpoint.state)
    step = build_step(checkpoint.recipe.model_copy(update={"strategy": strategy}), checkpoint.input)
    state = carried(checkpoint.state, before.layout, step.initial_state(), step.layout)
    assert step.strategy is not None
    state |= step.strategy.slots(state["theta"], step.layout)
    step.layout.load_module(step.parts, state["theta"])
    return step, state


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
