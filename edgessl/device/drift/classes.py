"""Classes that move: labels from the first session only, later sessions clustered and matched to what was known."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.device.drift.normalize import spread
from edgessl.device.heads.classifiers import softmax
from edgessl.device.heads.softmax_regression import SoftmaxRegression
from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError, InputError, StateMismatchError

Matrix = npt.NDArray[np.float64]
SHRINKAGE = 1e-3  # of the within-class covariance, of its mean variance
PRIOR = 10.0  # samples that a class's own displacement must outweigh to leave the shared one
ROUNDS = 20  # of expectation maximisation; the first half anneals
ANCHOR = 0.01  # inverse penalty of the anchoring classifier


@dataclass(frozen=True)
class Placement:
    """Where one fit found the classes: the features it saw, its whitening, the means there, the log priors."""

    columns: npt.NDArray[np.int64]
    whiten: Matrix  # (C, k)
    means: Matrix  # (K, k)
    log_prior: Matrix  # (K,)

    def probabilities(self, x: Matrix) -> Matrix:
        """(N, K) for samples (N, D) on the reference's scale: Gaussians of unit covariance after whitening."""
        z = x[:, self.columns] @ self.whiten
        return softmax(-0.5 * _squares(z, self.means) + self.log_prior)


@dataclass(frozen=True)
class Voters:
    """What labels a session's samples: the votes of `fits`; without any, the anchor on the session's own scale."""

    fits: tuple[Placement, ...]
    anchor: SoftmaxRegression
    centre: Matrix
    scale: Matrix

    def probabilities(self, x: Matrix) -> Matrix:
        """Shares of the votes (N, K) for samples (N, D) on the reference's scale; rows sum to 1."""
        if not self.fits:
            return self.anchor.probabilities((x - self.centre) / self.scale)
        ballots = (fit.probabilities(x) for fit in self.fits)
        return np.asarray(np.mean([np.eye(b.shape[1])[b.argmax(1)] for b in ballots], axis=0))


class DriftingClasses:
    """Gaussian classes with one covariance, whose means are found again in every session without labels.

    Within a session the classes lie apart, but all of them have moved: together (a shift that every class shares), and
    each by itself. `adapt` fits, by expectation maximisation, a mixture whose class k lies at `m_k + s + e_k`: m_k
    where it was the session before, s the shared shift, e_k its own, shrunk to 0 as if PRIOR samples spoke for that
    (a class that is not shown moves with the others). The covariance stays that of the labelled session: a mixture that
    may widen a class soon lets it swallow its neighbour.

    The likelihood has many maxima, and the highest is not the right one. So `restarts` fits start elsewhere: on some
    of the sensors, some principal components, another temperature to anneal from (Ueda and Nakano 1998), another part
    of the shift taken as the start. The `kept` fits whose labels agree most with an *anchor*, a strongly penalised
    logistic regression of the session normalised by its own mean and spread, vote by sample.

    Cost of `adapt`: restarts * ROUNDS * N K k multiplications. Deterministic for a seed and a sequence of calls.
    """

    def __init__(
        self,
        x: Matrix,
        labels: npt.NDArray[np.int64],
        *,
        group: int = 1,
        seed: int = 0,
        restarts: int = 40,
        kept: int = 10,
    ) -> None:
        """Learn the labelled session.

        Args:
            x: (M, D), features in which a change of gain is a shift: logarithms.
            labels: (M,), 0 to K - 1, each there at least twice.
            group: features of one sensor, next to each other; a fit takes or leaves all of them.
            seed: of the restarts.
            restarts, kept: see the class.

        Raises:
            InputError: shapes or labels do not fit.
            ConfigError: `group` does not divide D, or `kept` is not 1 to `restarts`.
        """
        x = np.asarray(x, np.float64)
        if x.ndim != 2 or len(x) != len(labels) or not len(x) or labels.min() < 0 or np.bincount(labels).min() < 2:
            raise InputError(
                f"drifting classes: samples {x.shape}, labels {labels.shape}; each class needs two samples"
            )
        if group < 1 or x.shape[1] % group:
            raise ConfigError(f"group is {group}; give a divisor of {x.shape[1]}")
        if not 1 <= kept <= restarts:
            raise ConfigError(f"kept is {kept}; give 1 to restarts ({restarts})")
        self._centre, self._scale = x.mean(0), spread(x)
        self._group, self._seed, self._restarts, self._kept = group, seed, restarts, kept
        self._reference, self._labels = self.standard(x), labels
        self.classes = int(labels.max()) + 1
        self.means: Matrix = np.stack([self._reference[labels == k].mean(0) for k in range(self.classes)])
        self._residuals = self._reference - self.means[labels]
        self._anchor = SoftmaxRegression.fit(self._reference, labels, self.classes, ANCHOR)
        self.sessions = 0

    def adapt(self, x: Matrix) -> Matrix:
        """Find the classes in a session's samples (N, D): probabilities (N, K).

        They are the shares of the kept fits' votes. The labels are their argmax; the class means move to where these
        labels say.
        """
        standard = self.standard(x)
        votes = self.fit(standard).probabilities(standard)
        weight = np.eye(self.classes)[votes.argmax(1)] * votes.max(1, keepdims=True)
        self.means = moved(self.means, standard, weight)
        self.sessions += 1
        return votes

    def fit(self, standard: Matrix, trust: float = 0.0) -> Voters:
        """What would label samples like these (N, D), given on the reference's scale; nothing changes.

        Where even the best fit agrees with the anchor on less than `trust` of the samples, the anchor labels: too few
        samples may not have shown the classes apart.
        """
        if standard.ndim != 2 or len(standard) < 2 or standard.shape[1] != len(self._centre):
            raise InputError(f"drifting classes: expected (N >= 2, {len(self._centre)}), found {standard.shape}")
        rng = np.random.default_rng([self._seed, self.sessions])
        centre, scale = standard.mean(0), spread(standard)
        anchored = self._anchor.probabilities((standard - centre) / scale).argmax(1)
        fits = [self._place(standard, rng) for _ in range(self._restarts)]
        agreement = np.array([(fit.probabilities(standard).argmax(1) == anchored).mean() for fit in fits])
        best = np.argsort(agreement, kind="stable")[-self._kept :]
        believed = agreement.max() >= trust
        return Voters(tuple(fits[i] for i in best) if believed else (), self._anchor, centre, scale)

    def _place(self, standard: Matrix, rng: np.random.Generator) -> Placement:
        sensors = standard.shape[1] // self._group
        few, many = max(1, 3 * sensors // 8), max(1, 7 * sensors // 8)
        chosen = rng.choice(sensors, int(rng.integers(few, many + 1)), replace=False)
        columns = (chosen[:, None] * self._group + np.arange(self._group)).ravel()
        components = min(int(rng.integers(12, 40)), len(columns))
        pseudo = np.exp(rng.uniform(np.log(5), np.log(500)))  # samples that speak for equally frequent classes
        coldest = np.exp(rng.uniform(np.log(0.02), 0))
        start = rng.uniform(0, 1.2)
        whiten = self._whitening(columns, components)
        z, before = standard[:, columns] @ whiten, self.means[:, columns] @ whiten
        means = before + start * (z.mean(0) - before.mean(0))
        prior = np.full(self.classes, 1 / self.classes)
        for heat in [*np.geomspace(coldest, 1, ROUNDS // 2), *np.ones(ROUNDS - ROUNDS // 2)]:
            weight = softmax(-0.5 * heat * _squares(z, means) + np.log(prior))
            counts = weight.sum(0)
            prior = (counts + pseudo) / (counts + pseudo).sum()
            means = moved(before, z, weight)
        return Placement(columns, whiten, means, np.log(prior))

    def _whitening(self, columns: npt.NDArray[np.int64], components: int) -> Matrix:
        """(C, k): principal components of the labelled session, scaled so that classes have unit covariance."""
        axes = np.linalg.svd(self._reference[:, columns], full_matrices=False)[2][:components].T
        inner = self._residuals[:, columns] @ axes
        covariance = inner.T @ inner / len(inner)
        covariance += SHRINKAGE * np.trace(covariance) / components * np.eye(components)
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(axes @ (vectors / np.sqrt(values)))

    def standard(self, x: npt.NDArray[np.floating]) -> Matrix:
        """Samples (N, D) on the scale of the labelled session, float64."""
        return np.asarray((np.asarray(x, np.float64) - self._centre) / self._scale)

    @property
    def located(self) -> Matrix:
        """Where the classes are now (K, D), in the units of the samples."""
        return np.asarray(self._centre + self._scale * self.means)

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs besides the labelled session."""
        return {"means": self.means, "sessions": np.array([self.sessions], np.int64)}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described; StateMismatchError for other classes or features."""
        if tensors["means"].shape != self.means.shape:
            raise StateMismatchError(f"class means {tensors['means'].shape} were saved, here are {self.means.shape}")
        self.means, self.sessions = np.array(tensors["means"], np.float64), int(tensors["sessions"][0])


def moved(before: Matrix, x: Matrix, weight: Matrix) -> Matrix:
    """Class means (K, D) that were `before`, given samples (N, D) and their weights (N, K) in the classes.

    `before + s + n / (n + PRIOR) * (mean - before - s)`, n the weight of a class, s the mean over the classes of
    `mean - before`, each counting n / (n + PRIOR). Without any weight nothing moves.
    """
    counts = weight.sum(0)
    trust = (counts / (counts + PRIOR))[:, None]
    displacement = weight.T @ x / np.maximum(counts, 1e-9)[:, None] - before
    shared = (trust * displacement).sum(0) / max(float(trust.sum()), 1e-9)
    return np.asarray(before + shared + trust * (displacement - shared))


def _squares(z: Matrix, means: Matrix) -> Matrix:
    """Squared distances (N, K), but for the |z|^2 that a softmax over the classes does not see."""
    return np.asarray((means**2).sum(1) - 2 * z @ means.T)
