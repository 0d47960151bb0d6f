"""The baseline of the step bench: what one would write in torch by hand, and what torch.compile makes of it.

Modules, autograd and torch's own optimizer with its defaults; the same initial weights, views, noise, loss, clipping
and weight decay as our step. Our step's collapse metrics are left out, in torch's favour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgessl.bench.case import build_step
from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError
from edgessl.objectives.functional import nt_xent_loss, vicreg_loss


def build(case: Mapping[str, Any], arrays: Mapping[str, Array], threads: int, compiled: bool) -> Callable[[int], float]:
    """The function that does training step number `t` and returns its loss.

    Raises:
        ConfigError: the objective has no hand-written baseline here.
    """
    torch.set_num_threads(threads)
    ours = build_step(
        case["encoder"], case["objective"], case["optimizer"]
    )  # for the same initial weights; its step is not used
    encoder, projector, views = ours.parts.encoder, ours.parts.projector, ours.views
    assert isinstance(encoder, nn.Module)
    assert isinstance(projector, nn.Module)
    loss_between = criterion(case["objective"], case["hyper"])

    def loss_of(batch: Tensor, noise: Tensor) -> Tensor:
        with torch.no_grad():
            a, b = views(batch, noise)
        z_a, z_b = projector(encoder(torch.cat([a, b]))).chunk(2)
        return loss_between(z_a, z_b)

    if compiled:
        loss_of = torch.compile(loss_of)
    parameters = [*encoder.parameters(), *projector.parameters()]
    decayed = {e.name for e in ours.layout.entries if e.kind == "weight"}
    optimizer = _optimizer(case["optimizer"], ours.parts, decayed, case["hyper"])
    batches, noises = torch.from_numpy(arrays["batch"]), torch.from_numpy(arrays["noise"])

    def step(t: int) -> float:
        i = t % len(batches)
        optimizer.zero_grad()
        loss = loss_of(batches[i], noises[i])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, case["hyper"]["clip_norm"])
        optimizer.step()
        return loss.item()

    return step


def criterion(objective: str, hyper: Mapping[str, float]) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss between the embeddings `(N, D)` of two views.

    Raises:
        ConfigError: another objective than vicreg or simclr.
    """
    if objective == "vicreg":
        return lambda a, b: vicreg_loss(a, b, hyper["invariance"], hyper["variance"], hyper["covariance"])
    if objective == "simclr":
        return lambda a, b: nt_xent_loss(a, b, hyper["temperature"])
    raise ConfigError(f"the step bench has no torch baseline for {objective!r}; choose vicreg or simclr")


def _optimizer(
    name: str, module: nn.Module, decayed: set[str], hyper: Mapping[str, float]
) -> torch.optim.SGD | torch.optim.AdamW:
    named = list(module.named_parameters())
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": hyper["weight_decay"]},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=hyper["lr"], betas=(hyper["beta1"], hyper["beta2"]), eps=hyper["eps"])
    return torch.optim.SGD(groups, lr=hyper["lr"], momentum=hyper["momentum"])
