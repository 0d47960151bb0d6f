"""Losses over sequences and across modalities: what comes next, what was masked, which two belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgessl.encoders.tokens import one_hot
from edgessl.objectives.functional.contrastive import in_batch_nce_loss
from edgessl.objectives.functional.rows import normalize, require_rows

_MASKED = -1e9  # a logit that leaves the softmax; finite, so that no graph has to carry an infinity


def cpc_loss(predictions: Sequence[Tensor], frames: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    """Contrastive predictive coding (van den Oord et al. 2018, eq. 4): find the frame k steps ahead among others.

    The candidates of frame t + k are the other frames of its own sequence that some t' + k reaches, and frame t + k of
    every other sequence: (T - k) + (N - 1) of them, so that memory grows with N T (N + T) and not with (N T)^2. The
    score is the cosine over a temperature, as in wav2vec 2.0 (Baevski et al. 2020, eq. 3); the paper's bilinear one has
    no scale to hold it.

    Args:
        predictions: for k = 1, 2, ..., what each frame predicts of the frame k steps later, each `(N, T, D)`; the last
            k predict nothing that is there and are not read.
        frames: `(N, T, D)`, T > the largest k.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar loss, mean over frames and over k.

    Raises:
        InputError: N < 2.
    """
    require_rows(frames, 2, "cpc_loss")
    n, steps, _ = frames.shape
    frames = _unit(frames)
    itself = torch.eye(n, dtype=frames.dtype, device=frames.device).unsqueeze(1)
    total = torch.zeros((), dtype=frames.dtype, device=frames.device)
    for k, prediction in enumerate(predictions, start=1):
        p, z = _unit(prediction[:, : steps - k]), frames[:, k:]
        within = p @ z.transpose(1, 2)
        across = (p.transpose(0, 1) @ z.permute(1, 2, 0)).transpose(0, 1)
        logits = torch.cat([within / temperature, across / temperature + _MASKED * itself], dim=2)
        positive = (p * z).sum(dim=2) / temperature
        total = total + torch.logsumexp(logits, dim=2).mean() - positive.mean()
    return total / len(predictions)


def clip_loss(a: Tensor, b: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    """CLIP's symmetric InfoNCE of two modalities (Radford et al. 2021, figure 3).

    Args:
        a, b: embeddings `(N, D)` of the two modalities; row i of one belongs to row i of the other.
        temperature: softmax temperature, > 0; 0.07 is where CLIP's learned one starts.

    Returns:
        Scalar loss, the mean of both directions. Both are normalised here.

    Raises:
        InputError: N < 2.
    """
    return 0.5 * (in_batch_nce_loss(a, b, temperature) + in_batch_nce_loss(b, a, temperature))


def token_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of every token, in nats: logits `(..., V)` and whole numbers `ids` `(...)` give `(...)`."""
    chosen = (logits * one_hot(ids.to(logits.dtype), logits.shape[-1])).sum(dim=-1)
    return torch.logsumexp(logits, dim=-1) - chosen


def bits_per_character(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of token predictions in bits: log2 V for a uniform model, 0 for a certain and right one.

    Args:
        logits: `(..., V)`, for each place the unnormalised log-probabilities of its own token (of a causal model: what
            the place before it predicts).
        ids: `(...)` the tokens, whole numbers from 0 to V - 1.
    """
    return token_cross_entropy(logits, ids).mean() / math.log(2)


def negative_sampling_loss(scores: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Word2Vec's negative sampling (Mikolov et al. 2013b, eq. 4), summed over places and words.

    Args:
        scores: `(N, L, V)`: the inner product of each place's vector and the output vector of each word.
        positives: `(N, L, V)`: how often each word is a true context of the place.
        negatives: `(N, L, V)`: how often it was drawn as a false one.

    Returns:
        `(N,)`: minus the log-likelihood of every sample, not divided by the number of pairs.
    """
    # log(1 + exp(x)) without overflow; softplus has a branch for large x that graphs need not carry
    rest = torch.log(1 + torch.exp(-scores.abs()))
    false_if_true, false_if_false = torch.relu(-scores) + rest, torch.relu(scores) + rest
    return (positives * false_if_true + negatives * false_if_false).sum(dim=(1, 2))


def similarity_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    student_temperature: float | Tensor = 0.2,
    teacher_temperature: float | Tensor = 0.01,
) -> Tensor:
    """SEED (Fang et al. 2021, eq. 5): the student ranks a queue of samples as the teacher does.

    Cross-entropy of two softmaxes over the similarities to the queue and, as in the paper, to the teacher's embedding
    of the sample itself. CompRess (Koohpayegani et al. 2020) is the same without the latter.

    Args:
        student: `(N, D)`; teacher: `(N, D)`; queue: `(K, D)` unit rows, the teacher's embeddings of earlier samples.
        student_temperature, teacher_temperature: > 0.

    Returns:
        Scalar loss, mean over the N samples, at least the entropy of the teacher's softmax. `student` and `teacher`
        are normalised here.
    """
    student, teacher = normalize(student), normalize(teacher)
    itself = (teacher * teacher).sum(dim=1, keepdim=True), (student * teacher).sum(dim=1, keepdim=True)
    wanted = torch.softmax(torch.cat([itself[0], teacher @ queue.T], dim=1) / teacher_temperature, dim=1)
    logits = torch.cat([itself[1], student @ queue.T], dim=1) / student_temperature
    return (torch.logsumexp(logits, dim=1) - (wanted * logits).sum(dim=1)).mean()


def _unit(frames: Tensor) -> Tensor:
    """`(N, T, D)` with every frame at unit length."""
    return normalize(frames.reshape(-1, frames.shape[-1])).reshape(frames.shape)
