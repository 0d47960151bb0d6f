"""What happens between two stretches of the past: importances are measured, anchors move. Pure functions again.

    importance(step, theta, x, probe)          -> (size,)   of each parameter, for the embedding of one sample
    consolidate(step, state, importance, hyper) -> state    what was learned so far becomes the past

A device runs both as graphs when it has seen drift; `consolidated` is what its Learner then does, in torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgessl.continual.strategies import Strategy
from edgessl.errors import ConfigError
from edgessl.step import State, TrainStep


def importance(step: TrainStep, theta: Tensor, x: Tensor, probe: Tensor) -> Tensor:
    """How much the embedding of one sample depends on each parameter, by the step's strategy.

    Args:
        step: with a strategy that `measures`.
        theta: `(size,)`.
        x: one sample `(1, *input_shape)`, raw units; the encoder runs in evaluation mode.
        probe: random signs `(1, D)`.

    Returns:
        `(size,)`, not negative, zero outside the trained prefix.

    Raises:
        ConfigError: the strategy measures no importance.
    """
    strategy, end = _strategy(step), step.layout.trained_end
    if not strategy.measures:
        raise ConfigError(f"strategy {strategy.name} measures no importance")
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        embedding = step.parts.network(step.layout, theta).frozen(theta)("encoder", x)
        scalar = strategy.sensitivity(embedding, probe)
    (gradient,) = torch.autograd.grad(scalar, theta)
    return nn.functional.pad(strategy.weigh(gradient[:end]), (0, step.layout.size - end))


def consolidate(step: TrainStep, state: State, importance: Tensor | None, hyper: Mapping[str, Tensor]) -> State:
    """The state in which what was learned so far is the past.

    Args:
        step: with a strategy that `consolidates`.
        state: every slot by name.
        importance: mean over remembered samples `(size,)`; None unless the strategy `measures`.
        hyper: 0-d tensors for every name in `step.hyper`.

    Raises:
        ConfigError: the step has no strategy.
    """
    changed = _strategy(step).consolidate(state, importance, dict(hyper), step.layout)
    return {name: changed.get(name, value) for name, value in state.items()}


def consolidated(step: TrainStep, state: State, samples: Tensor, probes: Tensor, hyper: Mapping[str, Tensor]) -> State:
    """Consolidation as a device does it, with the importance of `samples` `(N, *input_shape)`, N >= 1.

    `probes` `(N, D)` are random signs (`edgessl.device.noise.probe_signs`).
    """
    if not _strategy(step).measures:
        return consolidate(step, state, None, hyper)
    total = torch.zeros_like(state["theta"])
    for x, probe in zip(samples.split(1), probes.split(1), strict=True):
        total = total + importance(step, state["theta"], x, probe)
    return consolidate(step, state, total / len(samples), hyper)


def _strategy(step: TrainStep) -> Strategy:
    if step.strategy is None:
        raise ConfigError("this step has no continual strategy; give TrainStep or device_step one")
    return step.strategy
