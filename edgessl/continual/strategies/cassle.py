"""CaSSLe: predict the past network's projections from today's, by the objective's own kind of loss (Fini et al. 2022,
arXiv 2112.04215)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.continual.strategies.base import Price, Rows, Strategy
from edgessl.continual.strategies.functional import (
    contrastive_distillation,
    decorrelative_distillation,
    predictive_distillation,
)
from edgessl.continual.strategies.heads import PREDICTOR, Predictor, forgotten, project, projected_by, projected_size
from edgessl.encoders.base import Encoder
from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Gather, Network, Slots

FORMS = ("predictive", "contrastive", "decorrelative")


@dataclass(frozen=True)
class CaSSLe(Strategy):
    """`weight * L(g(z), z*)`, mean over views: g a two-layer predictor, z what the objective's projector gives (the
    embedding where it has none), z* the same by slot `anchor`.

    `form` of L: "predictive" (`2 - 2 cos`; for BYOL, SimSiam and all that match targets), "contrastive" (InfoNCE both
    ways; SimCLR, MoCo), "decorrelative" (Barlow Twins' loss; Barlow Twins, VICReg). The predictor lets features move on
    as long as the old ones can be told from them. The anchored network runs in evaluation mode; the authors' stays in
    train mode, where its batch norms see the batch. Memory: 4 bytes per parameter. Compute: one forward pass.
    """

    form: str = "predictive"
    hidden: int = 128
    name: ClassVar[str] = "cassle"
    hyper: ClassVar[dict[str, float]] = {"cassle_weight": 1.0, "cassle_temperature": 0.2, "cassle_redundancy": 5e-3}
    price: ClassVar[Price] = Price(bytes_per_parameter=4, forward=1)
    consolidates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"strategy cassle: form {self.form!r}; expected one of {', '.join(FORMS)}")

    def heads(self, encoder: Encoder, heads: Mapping[str, nn.Module], norm: str) -> dict[str, nn.Module]:
        """The predictor."""
        centring = self.form == "decorrelative"
        return {PREDICTOR: Predictor(projected_size(encoder, heads), self.hidden, norm, centring)}

    def slots(self, theta: Tensor, layout: ParameterLayout) -> Slots:
        """The anchor starts as a copy of the network."""
        return {"anchor": theta.clone()}

    def term(self, network: Network, slots: Slots, rows: Rows, hyper: Slots, gather: Gather) -> Tensor | None:
        """The loss of the chosen form, of what the predictor makes of today's rows and of the anchor's rows."""
        x, embedding = rows.embedded
        p = network(PREDICTOR, project(network, embedding, rows.projected))
        z = projected_by(network, slots["anchor"], x, rows.projected)
        if self.form == "predictive":
            value = predictive_distillation(gather(p), gather(z))
        elif self.form == "contrastive":
            p, z, temperature = gather(p), gather(z), hyper["cassle_temperature"]
            value = 0.5 * (contrastive_distillation(p, z, temperature) + contrastive_distillation(z, p, temperature))
        else:
            pairs = zip(rows.by_view(p), rows.by_view(z), strict=True)
            terms = [decorrelative_distillation(gather(a), gather(b), hyper["cassle_redundancy"]) for a, b in pairs]
            value = torch.stack(terms).mean()
        return hyper["cassle_weight"] * value

    def consolidate(self, state: Slots, importance: Tensor | None, hyper: Slots, layout: ParameterLayout) -> Slots:
        """The network becomes the anchor; the predictor starts anew."""
        return {"anchor": state["theta"], "theta": forgotten(state["theta"], layout)}
