"""Classifiers of a few labelled embeddings: nearest mean, nearest neighbours, LDA, logistic regression."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgessl.device.heads.novelty import unit

Matrix = npt.NDArray[np.float64]
Owners = npt.NDArray[np.int64]
TEMPERATURE = 0.1
SHRINKAGE = 1e-2  # of a covariance, of its mean variance


class Classifier(Protocol):
    """Fitted to embeddings (M, D) with labels 0 to K - 1, each there at least once."""

    def logits(self, z: Matrix) -> Matrix:
        """(N, K) for embeddings (N, D); a softmax of them is the confidence."""

    def similarity(self, z: Matrix) -> Matrix:
        """Cosine (N, K) to what stands for each label."""

    def leave_one_out(self) -> Matrix:
        """For each fitted embedding with a companion of its label: its greatest similarity when it is left out."""


class NearestMean:
    """Cosine to each label's mean direction; softmax at temperature 0.1.

    Snell et al., "Prototypical networks for few-shot learning", NeurIPS 2017.
    """

    def __init__(self, z: Matrix, owners: Owners) -> None:
        self._z, self._owners = unit(z), owners
        self._sums = np.stack([self._z[owners == k].sum(0) for k in range(owners.max() + 1)])
        self._means = unit(self._sums)

    def logits(self, z: Matrix) -> Matrix:
        """See Classifier."""
        return self.similarity(z) / TEMPERATURE

    def similarity(self, z: Matrix) -> Matrix:
        """See Classifier."""
        return np.asarray(unit(z) @ self._means.T)

    def leave_one_out(self) -> Matrix:
        """See Classifier."""
        paired = np.bincount(self._owners)[self._owners] > 1
        return np.asarray(self.without_own().max(1)[paired])

    def without_own(self) -> Matrix:
        """Cosine (M, K) of each fitted embedding to every label's mean, to its own label's mean without itself."""
        similarity = self._z @ self._means.T
        alone = unit(self._sums[self._owners] - self._z)
        similarity[np.arange(len(self._z)), self._owners] = (alone * self._z).sum(1)
        return np.asarray(similarity)


class NearestNeighbours(NearestMean):
    """The labels of the 5 nearest exemplars (cosine), each weighing exp(similarity / 0.1).

    Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018. A label's
    similarity is that of its nearest exemplar.
    """

    NEIGHBOURS = 5

    def logits(self, z: Matrix) -> Matrix:
        """See Classifier."""
        among = unit(z) @ self._z.T
        k = min(self.NEIGHBOURS, among.shape[1])
        least = np.sort(among, axis=1)[:, [-k]]
        weight = np.where(among >= least, np.exp((among - among.max(1, keepdims=True)) / TEMPERATURE), 0)
        votes = weight @ np.eye(len(self._means))[self._owners]
        return np.asarray(np.log(np.maximum(votes, 1e-12)))

    def similarity(self, z: Matrix) -> Matrix:
        """See Classifier."""
        return self._nearest(unit(z) @ self._z.T)

    def _nearest(self, among: Matrix) -> Matrix:
        return np.stack([among[:, self._owners == k].max(1) for k in range(len(self._means))], axis=1)

    def leave_one_out(self) -> Matrix:
        """See Classifier."""
        among = self._z @ self._z.T
        np.fill_diagonal(among, -np.inf)
        paired = np.bincount(self._owners)[self._owners] > 1
        return np.asarray(among.max(1)[paired])


class LdaStatistics:
    """Means and shared covariance of labelled embeddings, one at a time.

    Hayes & Kanan, "Lifelong machine learning with deep streaming linear discriminant analysis", CVPR-W 2020: a
    rank-one update a sample, K D + D^2 numbers. Here the samples' within-class scatter over their number less the
    number of labels, which after the last sample is the pooled covariance exactly.
    """

    def __init__(self, dim: int) -> None:
        self.counts = np.zeros(0, np.int64)
        self.means: Matrix = np.zeros((0, dim), np.float64)
        self.scatter: Matrix = np.zeros((dim, dim), np.float64)

    def add(self, z: Matrix, owner: int) -> None:
        """Take one embedding (D,) of label `owner`, at most one more than there are."""
        if owner == len(self.counts):
            self.counts = np.append(self.counts, 0)
            self.means = np.concatenate([self.means, np.zeros((1, len(z)))])
        n = self.counts[owner]
        off = z - self.means[owner]
        self.scatter += n / (n + 1) * np.outer(off, off)
        self.means[owner] += off / (n + 1)
        self.counts[owner] += 1

    def fit(self) -> tuple[Matrix, Matrix]:
        """Weights (K, D) and biases (K,) of the discriminant, from the shrunk covariance."""
        dim = len(self.scatter)
        covariance = self.scatter / max(int(self.counts.sum()) - len(self.counts), 1)
        scale = max(float(np.trace(covariance)) / dim, 1e-12)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * np.eye(dim)
        weights = np.asarray(np.linalg.solve(shrunk, self.means.T).T, np.float64)
        return weights, np.asarray(-0.5 * (weights * self.means).sum(1))


class Lda(NearestMean):
    """Linear discriminant of directions, equal priors, shared covariance shrunk by 1 %; see LdaStatistics."""

    def __init__(self, z: Matrix, owners: Owners) -> None:
        super().__init__(z, owners)
        statistics = LdaStatistics(z.shape[1])
        for row, owner in sorted(zip(self._z, owners.tolist(), strict=True), key=lambda pair: pair[1]):
            statistics.add(row, owner)
        self._weights, self._biases = statistics.fit()

    def logits(self, z: Matrix) -> Matrix:
        """See Classifier."""
        return np.asarray(unit(z) @ self._weights.T + self._biases)


class Logistic(NearestMean):
    """Multinomial logistic regression of directions, trained here: mean log loss + PENALTY |W|^2 / 2, W without bias.

    Nesterov's accelerated gradient with the step 1 / L of the loss's own Lipschitz constant; stops when the gradient
    is below TOLERANCE, or after STEPS. 2 M D K multiplications a step.
    """

    PENALTY, TOLERANCE, STEPS = 1e-3, 1e-5, 2000

    def __init__(self, z: Matrix, owners: Owners) -> None:
        super().__init__(z, owners)
        x = np.concatenate([self._z, np.ones((len(z), 1))], axis=1)
        target = np.eye(len(self._means))[owners]
        decay = np.append(np.full(z.shape[1], self.PENALTY), 0)
        step = 1 / (0.5 * np.linalg.norm(x, 2) ** 2 / len(x) + self.PENALTY)
        self._weights = ahead = np.zeros((target.shape[1], x.shape[1]))
        momentum = 1.0
        for _ in range(self.STEPS):
            gradient = (softmax(x @ ahead.T) - target).T @ x / len(x) + decay * ahead
            if np.abs(gradient).max() < self.TOLERANCE:
                break
            following = ahead - step * gradient
            grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            if ((ahead - following) * (following - self._weights)).sum() > 0:  # overshot: start the momentum again
                grown = 1.0
            ahead = following + (momentum - 1) / grown * (following - self._weights)
            self._weights, momentum = following, grown

    def logits(self, z: Matrix) -> Matrix:
        """See Classifier."""
        return np.asarray(unit(z) @ self._weights[:, :-1].T + self._weights[:, -1])


CLASSIFIERS: dict[str, Callable[[Matrix, Owners], Classifier]] = {
    "ncm": NearestMean,
    "knn": NearestNeighbours,
    "slda": Lda,
    "logistic": Logistic,
}


def softmax(logits: Matrix) -> Matrix:
    """Of each row."""
    weight = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(weight / weight.sum(1, keepdims=True))


def rejection_threshold(similarities: Matrix, share: float) -> float:
    """The similarity below which a sample is unknown, so that at most `share` of familiar ones are taken for that.

    The split-conformal quantile (Vovk et al., "Algorithmic learning in a random world", 2005) of leave-one-out
    similarities: the floor(share (n + 1))-th smallest; with fewer than 1 / share - 1 of them nothing can be rejected
    (minus infinity).
    """
    rank = int(np.floor(share * (len(similarities) + 1) + 1e-9))
    return float(np.sort(similarities)[rank - 1]) if rank >= 1 else -np.inf
