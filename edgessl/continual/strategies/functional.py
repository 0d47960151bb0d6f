"""Losses that tie today's embeddings to those of the past."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgessl.objectives.functional import barlow_twins_loss
from edgessl.objectives.functional.rows import normalize, require_rows

_MASKED = -1e9  # a logit that leaves the softmax; finite, so that no graph has to carry an infinity


def predictive_distillation(p: Tensor, z: Tensor) -> Tensor:
    """`2 - 2 cos`, mean over rows of `p` and `z` `(N, D)`, in [0, 4]; as a squared distance, exact near zero too."""
    return (normalize(p) - normalize(z)).square().sum(dim=1).mean()


def contrastive_distillation(p: Tensor, z: Tensor, temperature: float | Tensor = 0.2) -> Tensor:
    """InfoNCE of rows: `p_i` finds `z_i` among all rows of `z` (CaSSLe, Fini et al. 2022), one-sided.

    The authors' code masks the diagonal of a mask that is all ones, to no effect; this is what it computes.

    Raises:
        InputError: fewer than 2 rows; there is nothing to contrast with.
    """
    require_rows(p, 2, "contrastive_distillation")
    p, z = normalize(p), normalize(z)
    logits = p @ z.T / temperature
    return (torch.logsumexp(logits, dim=1) - (p * z).sum(dim=1) / temperature).mean()


def decorrelative_distillation(
    p: Tensor, z: Tensor, redundancy: float | Tensor = 5e-3, scale: float | Tensor = 0.1
) -> Tensor:
    """Barlow Twins' loss between prediction and past, scaled as in the authors' code (CaSSLe, Fini et al. 2022)."""
    return scale * barlow_twins_loss(p, z, redundancy)


def relative_error(z: Tensor, stored: Tensor) -> Tensor:
    """`sum |z - s|^2 / sum |s|^2` over all rows `(N, D)`: squared error in units of what is stored."""
    return (z - stored).square().sum() / (stored.square().sum() + 1e-12)


def pseudo_positives(new: list[Tensor], temperature: Tensor, tightness: Tensor) -> Tensor:
    """Which samples SCALE takes for one another's positives, from views `[(N, D), ...]` of them: `(N, N)` of 0 and 1.

    Cosines, averaged over pairs of views, become probabilities of being neighbours (softmax over rows and over columns,
    averaged); a pair counts where its probability is above `mean + tightness (max - mean)`. A sample is its own.

    Raises:
        InputError: fewer than 2 samples.
    """
    require_rows(new[0], 2, "pseudo_positives")
    u = torch.stack([normalize(v) for v in new]).mean(dim=0)
    itself = torch.eye(len(u), dtype=u.dtype, device=u.device)
    logits = (u @ u.T) / temperature + _MASKED * itself
    near = 0.5 * (torch.softmax(logits, dim=1) + torch.softmax(logits, dim=0))
    mean = near.sum() / (len(u) * (len(u) - 1))
    bound = mean + tightness * (near.max() - mean)
    return torch.clamp((near > bound).to(u.dtype) + itself, max=1.0)


def pseudo_contrastive_loss(new: list[Tensor], old: list[Tensor], positives: Tensor, temperature: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, L_out) with pseudo-positives: SCALE's learning term.

    Args:
        new: views of the new samples, `(N, D)` each; the anchors.
        old: the same views of remembered samples, `(R, D)` each; negatives only.
        positives: `(N, N)` of 0 and 1.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar, mean over the anchors; those without a positive (with one view, a sample nobody is near) count zero.
    """
    views = len(new)
    anchors = normalize(torch.cat(new))
    everybody = torch.cat([anchors, normalize(torch.cat(old))])
    itself = torch.eye(len(anchors), dtype=anchors.dtype, device=anchors.device)
    logits = anchors @ everybody.T / temperature
    hidden = F.pad(itself, (0, len(everybody) - len(anchors)))
    normaliser = torch.logsumexp(logits + _MASKED * hidden, dim=1)
    wanted = positives.repeat(views, views) * (1 - itself)
    among = (wanted * logits[:, : len(anchors)]).sum(dim=1)
    count = wanted.sum(dim=1)
    return ((normaliser * count - among) / count.clamp(min=1.0)).mean()


def relational_divergence(a: Tensor, b: Tensor, others: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    """By how much two views of the same samples differ in which other samples they are near (FedX, Han et al. 2022).

    Args:
        a, b: embeddings `(N, D)`, row i of both of the same sample.
        others: embeddings `(N, D)` of the same samples, to which `a` and `b` are compared; a sample's own is left out.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar, mean over rows of the Jensen-Shannon divergence of `softmax(cos / temperature)`; in [0, log 2].

    Raises:
        InputError: fewer than 3 rows: one other sample is no choice.
    """
    require_rows(a, 3, "relational_divergence")
    others = normalize(others)
    itself = torch.eye(len(a), dtype=a.dtype, device=a.device)
    log_p, log_q = (
        torch.log_softmax(normalize(view) @ others.T / temperature + _MASKED * itself, dim=1) for view in (a, b)
    )
    p, q = log_p.exp(), log_q.exp()
    log_mean = (0.5 * (p + q) + itself).log()  # log 1 where both are 0
    return 0.5 * (p * (log_p - log_mean) + q * (log_q - log_mean)).sum(dim=1).mean()


def relation_distillation(z: Tensor, past: Tensor, temperature: Tensor, past_temperature: Tensor) -> Tensor:
    """Cross-entropy of who is near whom, now and then (IRD of Co2L, Cha et al. 2021): SCALE's forgetting term.

    Args:
        z: embeddings `(N, D)`; past: those of the same samples then, in a space of any dimension.
        temperature, past_temperature: softmax temperatures, > 0; the past's the lower.

    Returns:
        Scalar, mean over rows; at least the entropy of the past's relations.
    """
    require_rows(z, 2, "relation_distillation")
    z, past = normalize(z), normalize(past)
    itself = torch.eye(len(z), dtype=z.dtype, device=z.device)
    logits = z @ z.T / temperature
    wanted = torch.softmax(past @ past.T / past_temperature + _MASKED * itself, dim=1)
    return (torch.logsumexp(logits + _MASKED * itself, dim=1) - (wanted * logits).sum(dim=1)).mean()
