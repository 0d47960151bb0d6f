"""Probes on frozen embeddings: linear, few-shot, a share of the labels, and accuracy per label."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgessl.errors import InputError
from edgessl.evaluate.neighbours import class_means, unit

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Interval:
    """A mean over seeded draws with its 95 % interval (Student's t over the draws), and the draws themselves.

    The interval tells what the choice of labelled samples does, at one encoder and one test split.
    """

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The interval of two draws or more; of one draw it is that point."""
        from scipy.stats import t

        found = np.asarray(values, np.float64)
        half = 0.0
        if len(found) > 1:
            half = float(t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found)))
        mean = float(found.mean())
        return cls(mean, mean - half, mean + half, tuple(map(float, found)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "values": list(self.values)}


def fit_linear(bank: Array, labels: Array, seed: int = 0) -> Any:
    """A fitted scikit-learn pipeline: standardise by `bank` `(M, D)`, then logistic regression (L2, C = 1)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed)).fit(bank, labels)


def linear_probe(
    bank: Array, labels: Array, queries: Array, truth: Array, balanced: bool = False, seed: int = 0
) -> float:
    """Accuracy in [0, 1] of a logistic regression on standardised embeddings (L2, C = 1)."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    score = balanced_accuracy_score if balanced else accuracy_score
    return float(score(truth, fit_linear(bank, labels, seed).predict(queries)))


def nearest_mean_predict(bank: Array, labels: Array, queries: Array) -> Array:
    """Classes of `queries` by the nearest class mean on the unit sphere (Snell et al. 2017, cosine)."""
    classes, means = class_means(bank, labels)
    predicted: Array = classes[(unit(queries) @ means.T).argmax(1)]
    return predicted


def draw_per_class(labels: Array, per_class: int, rng: np.random.Generator) -> Array:
    """Indices of `per_class` samples of every class, drawn without repeats.

    Raises:
        InputError: a class has fewer.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < per_class:
        short = classes[counts.argmin()]
        raise InputError(f"{per_class} labels per class: class {short} has only {counts.min()}; ask for fewer")
    return np.concatenate([rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in classes])


def draw_fraction(labels: Array, fraction: float, rng: np.random.Generator) -> Array:
    """Indices of a share of every class, at least one sample of each, drawn without repeats."""
    chosen = []
    for c in np.unique(labels):
        own = np.flatnonzero(labels == c)
        chosen.append(rng.choice(own, max(1, round(fraction * len(own))), replace=False))
    return np.concatenate(chosen)


def few_shot(
    bank: Array,
    labels: Array,
    queries: Array,
    truth: Array,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 20,
    seed: int = 0,
) -> dict[int, dict[str, Interval]]:
    """Accuracy from `shots` labelled samples of every class, over seeded draws of them from `bank`.

    Returns, for each number of shots, "nearest_mean" (`nearest_mean_predict`) and "logistic" (`fit_linear`).

    Raises:
        InputError: a class has fewer samples than that.
    """
    found: dict[int, dict[str, Interval]] = {}
    for n in shots:
        means, lines = [], []
        for draw in range(draws):
            chosen = draw_per_class(labels, n, np.random.default_rng([seed, n, draw]))
            means.append(float((nearest_mean_predict(bank[chosen], labels[chosen], queries) == truth).mean()))
            lines.append(linear_probe(bank[chosen], labels[chosen], queries, truth))
        found[n] = {"nearest_mean": Interval.of(means), "logistic": Interval.of(lines)}
    return found


def label_fractions(
    bank: Array,
    labels: Array,
    queries: Array,
    truth: Array,
    fractions: Sequence[float] = (0.01, 0.1),
    draws: int = 5,
    seed: int = 0,
) -> dict[float, tuple[int, Interval]]:
    """Accuracy of the linear probe from a share of the labels, class by class: share -> (labels used, accuracy)."""
    found: dict[float, tuple[int, Interval]] = {}
    for fraction in fractions:
        chosen = [draw_fraction(labels, fraction, np.random.default_rng([seed, draw])) for draw in range(draws)]
        scores = [linear_probe(bank[i], labels[i], queries, truth) for i in chosen]
        found[fraction] = (len(chosen[0]), Interval.of(scores))
    return found


def label_efficiency(
    labels: Array, score: Callable[[Array], float], draws: int = 3, seed: int = 0
) -> tuple[list[tuple[int, float]], float]:
    """Accuracy per label: the curve over 1, 2, 4, 8 ... labels per class, and its area.

    Args:
        labels: classes `(M,)` of the samples that may be labelled.
        score: accuracy in [0, 1] when the samples of these indices are labelled, e.g. a linear probe of one encoder.

    Returns:
        The curve, (labels in all, mean accuracy over draws), and `log_area` of it: one number in [0, 1] that is
        higher for an encoder that needs fewer labels.
    """
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    classes = len(np.unique(labels))
    curve = []
    for n in [2**i for i in range(smallest.bit_length())]:
        scores = [score(draw_per_class(labels, n, np.random.default_rng([seed, n, draw]))) for draw in range(draws)]
        curve.append((n * classes, float(np.mean(scores))))
    return curve, log_area(curve)


def log_area(curve: Sequence[tuple[int, float]]) -> float:
    """Mean height of a curve of (labels, accuracy) over the logarithm of the labels, by trapezoids."""
    x, y = np.log([n for n, _ in curve]), np.array([accuracy for _, accuracy in curve])
    return float(y[0]) if len(curve) == 1 else float(np.diff(x) @ (y[1:] + y[:-1]) / 2 / (x[-1] - x[0]))
