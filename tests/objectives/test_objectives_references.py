"""One step of each objective against its paper written out in numpy, float64, from the modules' own outputs.

What is under test is the objective: which view meets which, what is a teacher's, which slot is read and what is left in
it. The states are two steps on, where centres, moments and queues are no longer what they started as.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import CASES
from scipy.special import log_softmax, logsumexp, softmax
from torch import Tensor

from edgessl.objectives.functional import minibatch_kmeans
from edgessl.step import State, TrainStep, hyper_tensors
from export.parity import random_fields

torch.set_num_threads(1)

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Seen:
    """A step's inputs, and what the modules make of its views."""

    step: TrainStep
    state: State
    views: tuple[Tensor, ...]

    def output(self, part: str, view: int, slot: str = "theta") -> Array:
        """What `part` ("encoder", "projector" or "predictor", after those before it) makes of a view."""
        parts = copy.deepcopy(self.step.parts)
        self.step.layout.load_module(parts, self.state[slot])
        parts.double().train()
        with torch.no_grad():
            z = parts.encoder(self.views[view].double())
            for name in ("projector", "predictor")[: ("encoder", "projector", "predictor").index(part)]:
                z = parts.get_submodule(name)(z)
        return z.numpy()

    def prototypes(self, slot: str = "theta") -> Array:
        return unit(self.step.layout.unflatten(self.state[slot])["prototypes.weight"].double().numpy())

    def slot(self, name: str) -> Array:
        return self.state[name].double().numpy()


def unit(z: Array) -> Array:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def centred(z: Array) -> Array:
    return z - z.mean(0)


def standardized(z: Array) -> Array:
    return centred(z) / np.sqrt(z.var(0) + 1e-5)


def cross_entropy_of_the_diagonal(q: Array, k: Array, temperature: float) -> float:
    return -np.diag(log_softmax(unit(q) @ unit(k).T / temperature, axis=1)).mean()


def enqueued(queue: Array, keys: Array) -> Array:
    return np.concatenate([keys, queue])[: len(queue)]


Result = tuple[float, dict[str, Array]]


def simsiam(s: Seen) -> Result:
    p, z = ([standardized(s.output(part, v)) for v in (0, 1)] for part in ("predictor", "projector"))
    return -0.5 * ((unit(p[0]) * unit(z[1])).sum(1).mean() + (unit(p[1]) * unit(z[0])).sum(1).mean()), {}


def mocov3(s: Seen) -> Result:
    t = s.step.hyper["temperature"]
    q = [centred(s.output("predictor", v)) for v in (0, 1)]
    k = [centred(s.output("projector", v, "teacher")) for v in (0, 1)]
    return 2 * t * sum(cross_entropy_of_the_diagonal(q[v], k[1 - v], t) for v in (0, 1)), {}


def dcl(s: Seen) -> Result:
    t, queue = s.step.hyper["temperature"], s.slot("queue")
    z = [unit(s.output("projector", v)) for v in (0, 1)]
    total, n = 0.0, len(z[0])
    for v in (0, 1):
        for i in range(n):
            others = [w[j] for w in z for j in range(n) if j != i]
            candidates = np.stack([*others, *queue]) @ z[v][i] / t
            total += logsumexp(candidates) - z[0][i] @ z[1][i] / t
    return total / (2 * n), {"queue": enqueued(queue, z[0])}


def nnclr(s: Seen) -> Result:
    t, queue = s.step.hyper["temperature"], s.slot("queue")
    z = [unit(centred(s.output("projector", v))) for v in (0, 1)]
    p = [centred(s.output("predictor", v)) for v in (0, 1)]
    nearest = [np.stack([min(queue, key=lambda row, x=x: float(((row - x) ** 2).sum())) for x in view]) for view in z]
    value = 0.5 * sum(cross_entropy_of_the_diagonal(nearest[v], p[1 - v], t) for v in (0, 1))
    return value, {"queue": enqueued(queue, z[0])}


def dino(s: Seen) -> Result:
    hyper, centre = s.step.hyper, s.slot("centre")
    student = [centred_cosines(s, v) for v in (0, 1, 2)]
    teacher = [centred_cosines(s, v, "teacher") for v in (0, 1)]
    pairs = [(i, j) for i in (0, 1) for j in (0, 1, 2) if i != j]
    value = 0.0
    for i, j in pairs:
        target = softmax((teacher[i] - centre) / hyper["teacher_temperature"], axis=1)
        value -= (target * log_softmax(student[j] / hyper["student_temperature"], axis=1)).sum(1).mean() / len(pairs)
    # scores are centred over the batch, so their mean is that of the rows' lengths alone: small, and not zero
    return value, {"centre": 0.9 * centre + 0.1 * np.concatenate(teacher).mean(0)}


def centred_cosines(s: Seen, view: int, slot: str = "theta") -> Array:
    return unit(centred(s.output("projector", view, slot))) @ s.prototypes(slot).T


def barlow_twins(s: Seen) -> Result:
    a, b = (standardized(s.output("projector", v)) for v in (0, 1))
    c = a.T @ b / len(a)
    target = np.eye(len(c))
    return ((c - target) ** 2 * np.where(target, 1, s.step.hyper["redundancy"])).sum(), {}


def tico(s: Seen) -> Result:
    hyper = s.step.hyper
    a, b = unit(centred(s.output("projector", 0))), unit(centred(s.output("projector", 1, "teacher")))
    beta = hyper["covariance_decay"]
    covariance = beta * s.slot("covariance") + (1 - beta) * np.mean([np.outer(x, x) for x in a], axis=0)
    value = np.mean([1 - x @ y + hyper["contrast"] * x @ covariance @ x for x, y in zip(a, b, strict=True)])
    return float(value), {"covariance": covariance}


def swav(s: Seen) -> Result:
    t, epsilon, queue = s.step.hyper["temperature"], s.step.hyper["sinkhorn_epsilon"], s.slot("queue")
    scores = [centred_cosines(s, v) for v in (0, 1, 2)]
    codes = []
    for view in scores[:2]:  # each view by itself, with the queue, which is not itself predicted
        q = np.exp(np.concatenate([view, queue @ s.prototypes().T]) / epsilon)
        for _ in range(3):
            q /= q.sum(0, keepdims=True)
            q /= q.sum(1, keepdims=True)
        codes.append(q[: len(view)])
    pairs = [(i, j) for i in (0, 1) for j in (0, 1, 2) if i != j]
    value = -sum((codes[i] * log_softmax(scores[j] / t, axis=1)).sum(1).mean() for i, j in pairs) / len(pairs)
    return value, {"queue": enqueued(queue, unit(centred(s.output("projector", 0))))}


def deepcluster(s: Seen) -> Result:
    hyper, centroids, counts = s.step.hyper, s.slot("centroids"), s.slot("counts")
    a, b = (unit(centred(s.output("projector", v))) for v in (0, 1))
    sample = unit(a + b)
    cluster = (sample @ unit(centroids).T).argmax(1)
    logits = [z @ unit(centroids).T / hyper["temperature"] for z in (a, b)]
    value = -np.mean([log_softmax(view, axis=1)[range(len(a)), cluster].mean() for view in logits])
    new_centroids, new_counts = sculley(centroids, hyper["centroid_decay"] * counts, sample, cluster)
    assert (new_counts > hyper["reseed"] * new_counts.mean()).all()  # nobody is born again in this batch
    return float(value), {"centroids": new_centroids, "counts": new_counts}


def sculley(centroids: Array, counts: Array, rows: Array, cluster: Array) -> tuple[Array, Array]:
    """Algorithm 1 of Sculley 2010, as printed: row by row, with a learning rate per centre."""
    centroids, counts = centroids.copy(), counts.copy()
    for x, c in zip(rows, cluster, strict=True):
        counts[c] += 1
        rate = 1 / counts[c]
        centroids[c] = (1 - rate) * centroids[c] + rate * x
    return centroids, counts


REFERENCES: dict[str, Callable[[Seen], Result]] = {
    f.__name__: f for f in (simsiam, mocov3, dcl, nnclr, dino, barlow_twins, tico, swav, deepcluster)
}


def at_step(name: str, t: int) -> tuple[Seen, Any]:
    """What the objective's `t`-th step sees, and the step itself as a function without arguments."""
    case = CASES[name]
    step = case.step(name)
    hyper, state = hyper_tensors(step.hyper), step.initial_state()
    for i in range(t + 1):
        noise = torch.rand(step.noise_shape(case.batch), generator=torch.Generator().manual_seed(i))
        samples = torch.from_numpy(random_fields(case.spec, case.batch, i))
        if i < t:
            state = step(state, samples, noise, hyper)[0]
    seen = Seen(step, state, step.views(samples, noise[:, : step.views.width]))
    return seen, lambda: step.gradient(state, samples, noise, hyper)


@pytest.mark.parametrize("t", [0, 2])
@pytest.mark.parametrize("name", REFERENCES)
def test_the_step_is_the_papers(name: str, t: int) -> None:
    seen, take = at_step(name, t)
    gradient = take()
    value, slots = REFERENCES[name](seen)
    assert float(gradient.loss) == pytest.approx(value, rel=2e-4, abs=1e-5)
    assert set(gradient.slots) == set(slots)
    for slot, expected in slots.items():
        np.testing.assert_allclose(gradient.slots[slot].numpy(), expected, rtol=1e-3, atol=2e-5)


def test_the_stopped_gradient_of_simsiam() -> None:
    seen, take = at_step("simsiam", 0)
    found = take().direction
    step, layout = seen.step, seen.step.layout

    def loss(stop: bool) -> Tensor:
        theta = seen.state["theta"].clone().requires_grad_()

        def run(part: str, x: Tensor) -> Tensor:
            out: Tensor = torch.func.functional_call(step.parts, layout.unflatten(theta), (part, x))
            return out

        def scaled(x: Tensor) -> Tensor:
            return torch.nn.functional.batch_norm(x, None, None, training=True)

        z = [run("projector", run("encoder", view)) for view in seen.views]
        p = [scaled(run("predictor", view)) for view in z]
        targets = [scaled(view.detach() if stop else view) for view in z]
        cosine = torch.nn.functional.cosine_similarity
        value = -0.5 * (cosine(p[0], targets[1]).mean() + cosine(p[1], targets[0]).mean())
        return torch.autograd.grad(value, theta)[0]

    expected = loss(True)
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        found[: layout.trained_end], expected[: layout.trained_end], rtol=1e-3, atol=1e-4 * scale
    )
    assert float((loss(False) - expected).abs().max()) > 0.1 * scale  # and it is not what would come without


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_minibatch_kmeans_is_sculleys_row_by_row(batch: int) -> None:
    rng = np.random.default_rng(batch)
    centroids, counts = unit(rng.standard_normal((4, 6))), np.ones(4)
    ours = torch.from_numpy(centroids), torch.from_numpy(counts)
    for _ in range(6):
        rows = unit(rng.standard_normal((batch, 6)))
        cluster = (rows @ unit(centroids).T).argmax(1)  # all nearest centres first, then the updates
        centroids, counts = sculley(centroids, counts, rows, cluster)
        *ours, assignment = minibatch_kmeans(*ours, torch.from_numpy(rows))
        assert assignment.argmax(1).tolist() == cluster.tolist()
        np.testing.assert_allclose(ours[0], centroids, rtol=1e-9)
        np.testing.assert_allclose(ours[1], counts, rtol=1e-12)


def test_empty_clusters_are_seeded_with_the_rows_that_fit_worst() -> None:
    eye = torch.eye(5, dtype=torch.float64)
    centroids, counts = eye[:4], torch.tensor([100.0, 1e-3, 100.0, 1e-3], dtype=torch.float64)

    def near(axis: int, off: float) -> Tensor:
        return eye[axis] * (1 - off * off) ** 0.5 + off * eye[4]

    # all rows belong to clusters 0 and 2; the worst fit is row 2, then row 0
    rows = torch.stack([near(0, 0.5), near(2, 0.1), near(2, 0.6), near(0, 0.2)])
    new, new_counts, assignment = minibatch_kmeans(centroids, counts, rows, 1.0, 0.1)
    assert assignment.argmax(dim=1).tolist() == [0, 2, 2, 0]
    torch.testing.assert_close(new[[1, 3]], rows[[2, 0]], rtol=1e-12, atol=0)
    # they count as much as the others do on average, so that they have time to find members
    assert new_counts[1] == new_counts[3] == pytest.approx(float((204.002) / 4), rel=1e-12)
    assert new_counts[[0, 2]].tolist() == [102, 102]
    # with fewer rows than empty clusters, the first ones take what there is and the rest wait
    one, _, _ = minibatch_kmeans(centroids, counts, rows[:1], 1.0, 0.1)
    torch.testing.assert_close(one[1], rows[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(one[3], centroids[3], rtol=1e-12, atol=0)
    # without re-seeding they stay where they are
    torch.testing.assert_close(minibatch_kmeans(centroids, counts, rows)[0][[1, 3]], centroids[[1, 3]], rtol=0, atol=0)
