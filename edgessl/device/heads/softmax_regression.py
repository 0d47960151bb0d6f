"""Multinomial logistic regression of weighted samples, fitted on the device."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.device.heads.classifiers import softmax
from edgessl.errors import InputError

Matrix = npt.NDArray[np.float64]
TOLERANCE, STEPS = 1e-6, 3000


@dataclass(frozen=True)
class SoftmaxRegression:
    """`weights` (K, D) and `biases` (K,)."""

    weights: Matrix
    biases: Matrix

    def probabilities(self, x: Matrix) -> Matrix:
        """(N, K) for samples (N, D)."""
        return softmax(x @ self.weights.T + self.biases)

    @classmethod
    def fit(
        cls,
        x: Matrix,
        labels: npt.NDArray[np.int64],
        classes: int,
        inverse_penalty: float,
        counts: Matrix | None = None,
    ) -> "SoftmaxRegression":
        """Minimise `inverse_penalty * sum_i counts_i * log_loss_i + |weights|^2 / 2`; biases are free.

        x: (N, D), on a common scale.  labels: (N,) from 0 to below `classes`.  counts: (N,) > 0, how often each counts.
        Nesterov's accelerated gradient with restarts (O'Donoghue and Candes 2015) and the step 1 / L of the loss's
        Lipschitz constant, until the gradient per sample is below TOLERANCE or STEPS are done; 2 N D K multiplications
        a step. InputError where a label or the shapes do not fit.
        """
        if len(x) != len(labels) or not len(x) or labels.min() < 0 or labels.max() >= classes:
            raise InputError(f"softmax regression: {len(x)} samples, labels {np.unique(labels)}, {classes} classes")
        counts = np.ones(len(x)) if counts is None else counts
        share = counts / counts.sum()
        wide = np.concatenate([x, np.ones((len(x), 1))], 1)
        target = np.eye(classes)[labels]
        penalty = 1 / (inverse_penalty * counts.sum())
        decay = np.append(np.full(x.shape[1], penalty), 0.0)
        step = 1 / (0.5 * np.linalg.norm(wide * np.sqrt(share)[:, None], 2) ** 2 + penalty)
        now = ahead = np.zeros((classes, wide.shape[1]))
        momentum = 1.0
        for _ in range(STEPS):
            gradient = ((softmax(wide @ ahead.T) - target) * share[:, None]).T @ wide + decay * ahead
            if np.abs(gradient).max() < TOLERANCE:
                break
            following = ahead - step * gradient
            grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            if ((ahead - following) * (following - now)).sum() > 0:  # overshot: start the momentum again
                grown = 1.0
            ahead = following + (momentum - 1) / grown * (following - now)
            now, momentum = following, grown
        return cls(now[:, :-1], now[:, -1])
