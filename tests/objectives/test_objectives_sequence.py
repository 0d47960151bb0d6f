"""Sequence and cross-modal losses against closed forms and float64 references written with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgessl.errors import InputError
from edgessl.objectives.functional import (
    bits_per_character,
    clip_loss,
    cpc_loss,
    negative_sampling_loss,
    similarity_distillation_loss,
    token_cross_entropy,
)

torch.set_num_threads(1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy(logits: list[float], right: int) -> float:
    return math.log(sum(math.exp(value) for value in logits)) - logits[right]


@pytest.mark.parametrize(("n", "steps", "ahead"), [(2, 5, 1), (3, 4, 3), (6, 9, 2)])
def test_cpc_of_constant_frames_is_the_log_of_the_number_of_candidates(n: int, steps: int, ahead: int) -> None:
    frames = torch.ones(n, steps, 4, dtype=torch.float64)
    expected = np.mean([math.log(steps - k + n - 1) for k in range(1, ahead + 1)])
    assert float(cpc_loss([frames] * ahead, frames, 0.07)) == pytest.approx(expected, abs=1e-12)


def test_cpc_equals_its_definition() -> None:
    n, steps, ahead, t = 3, 6, 2, 0.3
    frames, guesses = draw(n, steps, 4, seed=1), [draw(n, steps, 4, seed=2 + k) for k in range(ahead)]
    z = unit(frames.numpy())
    losses = []
    for k in range(1, ahead + 1):
        c = unit(guesses[k - 1].numpy())
        of_k = []
        for i in range(n):
            for s in range(steps - k):
                own = [z[i, q] for q in range(k, steps)]
                others = [z[j, s + k] for j in range(n) if j != i]
                of_k.append(cross_entropy([float(c[i, s] @ candidate) / t for candidate in own + others], s))
        losses.append(np.mean(of_k))
    assert float(cpc_loss(guesses, frames, t)) == pytest.approx(np.mean(losses), rel=1e-12)


def test_cpc_knows_a_perfect_prediction_and_reads_no_frame_beyond_the_end() -> None:
    frames = torch.eye(12, dtype=torch.float64).reshape(2, 6, 12)
    perfect = torch.cat([frames[:, 1:], 100 * frames[:, :1]], dim=1)  # the last prediction is of nothing
    # one candidate at cosine 1, four of the own sequence and one of the other at 0
    assert float(cpc_loss([perfect], frames, 0.5)) == pytest.approx(math.log(math.exp(2) + 5) - 2, rel=1e-12)
    with pytest.raises(InputError, match="cpc_loss: expected at least 2 samples"):
        cpc_loss([perfect[:1]], frames[:1])


def test_clip_equals_its_definition() -> None:
    a, b, t = draw(5, 7, seed=1), draw(5, 7, seed=2), 0.2
    similarity = unit(a.numpy()) @ unit(b.numpy()).T / t
    rows = [cross_entropy(list(similarity[i]), i) for i in range(5)]
    columns = [cross_entropy(list(similarity[:, i]), i) for i in range(5)]
    assert float(clip_loss(a, b, t)) == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, rel=1e-12)
    assert float(clip_loss(b, a, t)) == pytest.approx(float(clip_loss(a, b, t)), rel=1e-12)
    assert float(clip_loss(3 * a, 0.1 * b, t)) == pytest.approx(float(clip_loss(a, b, t)), rel=1e-9)


@pytest.mark.parametrize("n", [2, 9])
def test_clip_closed_forms(n: int) -> None:
    same = torch.ones(n, 3, dtype=torch.float64)
    assert float(clip_loss(same, same)) == pytest.approx(math.log(n), abs=1e-12)
    apart = torch.eye(n, dtype=torch.float64)
    assert float(clip_loss(apart, apart, 0.5)) == pytest.approx(math.log(math.exp(2) + n - 1) - 2, rel=1e-12)
    with pytest.raises(InputError, match="at least 2"):
        clip_loss(same[:1], same[:1])


def test_bits_per_character() -> None:
    ids = torch.tensor([[0.0, 64, 3]], dtype=torch.float64)
    assert float(bits_per_character(torch.zeros(1, 3, 65, dtype=torch.float64), ids)) == pytest.approx(math.log2(65))
    certain = 1e3 * F.one_hot(ids.long(), 65).double()
    assert float(bits_per_character(certain, ids)) == 0
    # a model that says 1/2, 1/4, 1/8 of the right ones costs 1, 2 and 3 bits
    share = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]], dtype=torch.float64)
    assert float(bits_per_character(share.log(), torch.zeros(3))) == pytest.approx(2)


def test_token_cross_entropy_is_torchs() -> None:
    logits, ids = draw(4, 6, 9), torch.from_numpy(np.random.default_rng(0).integers(0, 9, (4, 6)))
    expected = F.cross_entropy(logits.permute(0, 2, 1), ids, reduction="none")
    torch.testing.assert_close(token_cross_entropy(logits, ids.double()), expected, rtol=1e-12, atol=1e-12)


def test_negative_sampling_equals_its_definition() -> None:
    scores = draw(2, 3, 4)
    positives, negatives = (torch.from_numpy(np.random.default_rng(s).poisson(1.0, (2, 3, 4))) for s in (1, 2))
    found = negative_sampling_loss(scores, positives, negatives)
    for n in range(2):
        likelihood = 0.0
        for s, p, q in zip(scores[n].ravel(), positives[n].ravel(), negatives[n].ravel(), strict=True):
            likelihood += float(p) * math.log(1 / (1 + math.exp(-float(s))))
            likelihood += float(q) * math.log(1 / (1 + math.exp(float(s))))
        assert float(found[n]) == pytest.approx(-likelihood, rel=1e-12)
    extreme = negative_sampling_loss(torch.tensor([[[1e4, -1e4]]]), torch.ones(1, 1, 2), torch.zeros(1, 1, 2))
    assert float(extreme) == 1e4


def test_similarity_distillation_equals_its_definition() -> None:
    student, teacher, queue = draw(3, 5, seed=1), draw(3, 5, seed=2), unit(draw(6, 5, seed=3).numpy())
    s, t = unit(student.numpy()), unit(teacher.numpy())
    losses = []
    for i in range(3):
        candidates = np.concatenate([t[i : i + 1], queue])
        wanted = np.exp(candidates @ t[i] / 0.1)
        wanted /= wanted.sum()
        found = np.exp(candidates @ s[i] / 0.4)
        losses.append(-(wanted * np.log(found / found.sum())).sum())
    value = similarity_distillation_loss(student, teacher, torch.from_numpy(queue), 0.4, 0.1)
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-9)


def test_a_student_that_equals_its_teacher_cannot_do_better() -> None:
    teacher, queue = draw(4, 5, seed=2), torch.from_numpy(unit(draw(6, 5, seed=3).numpy()))
    student = teacher.clone().requires_grad_()
    value = similarity_distillation_loss(student, teacher, queue, 0.3, 0.3)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.abs().max() < 1e-9  # the minimum: the entropy of the teacher's softmax
    for seed in range(5):
        other = teacher + 0.3 * draw(4, 5, seed=10 + seed)
        assert similarity_distillation_loss(other, teacher, queue, 0.3, 0.3) > value


@pytest.mark.parametrize("name", ["cpc", "clip", "negative_sampling", "similarity_distillation", "cross_entropy"])
def test_gradient(name: str) -> None:
    a, b = draw(3, 4, 5, seed=1).requires_grad_(), draw(3, 4, 5, seed=2).requires_grad_()
    counts = torch.from_numpy(np.random.default_rng(0).poisson(1.0, (3, 4, 5))).double()
    ids = torch.tensor([[0, 4, 2, 2]] * 3).double()
    queue = F.normalize(draw(6, 5, seed=3), dim=1)
    losses = {
        "cpc": lambda x, y: cpc_loss([x, x * 2 + 0.1], y, 0.5),
        "clip": lambda x, y: clip_loss(x[:, 0], y[:, 0], 0.5),
        "negative_sampling": lambda x, y: negative_sampling_loss(x * y, counts, 1 + counts).sum(),
        "similarity_distillation": lambda x, y: similarity_distillation_loss(x[:, 0], y[:, 0], queue, 0.5, 0.5),
        "cross_entropy": lambda x, y: token_cross_entropy(x * y, ids).sum(),
    }
    assert torch.autograd.gradcheck(losses[name], (a, b))
