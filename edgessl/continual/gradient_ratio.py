"""How loud a strategy speaks beside its objective: the ratio of their gradients' norms.

A distillation term 250 times the task's gradient was once hidden by LARS, which rescales both
(grepapetti/continual-self-supervised-learning-pfr): a loss near zero says nothing about it, this does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgessl.optim import l2_norm
from edgessl.step import State, TrainStep


def gradient_ratio(
    step: TrainStep,
    state: State,
    batch: Tensor,
    noise: Tensor,
    hyper: Mapping[str, Tensor],
    stored: Tensor | None = None,
) -> float:
    """`|d strategy / d theta| / |d objective / d theta|` over the trained parameters, for the inputs of one step.

    Its own passes, two backward: for a bench, every so many steps. The exported graph knows nothing of it.

    Returns:
        0.0 where the step has no strategy, or one that does not add to the loss; infinite where only it has a gradient.
    """
    step.parts.train()
    theta, end = state["theta"].detach().requires_grad_(), step.layout.trained_end
    values = dict(hyper)
    with torch.enable_grad():
        loss, term, _ = step.losses(theta, state, batch, noise, values, stored)
    (of_objective,) = torch.autograd.grad(loss.value, theta, retain_graph=term is not None)
    of_strategy = torch.zeros_like(of_objective)
    if term is not None:
        of_strategy = torch.autograd.grad(term, theta)[0]
    if step.strategy and (penalty := step.strategy.penalty(state["theta"], state, values)):
        of_strategy = of_strategy + penalty[1]
    mine, theirs = float(l2_norm(of_strategy[:end])), float(l2_norm(of_objective[:end]))
    return 0.0 if mine == 0 else mine / theirs if theirs > 0 else float("inf")
