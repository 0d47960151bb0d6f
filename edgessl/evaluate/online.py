"""The online linear probe: a linear layer trained on detached embeddings while pretraining runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgessl.errors import InputError

MOMENTUM, BETA1, BETA2, EPS = 0.1, 0.9, 0.999, 1e-8


class OnlineProbe:
    """Softmax regression by Adam, one update per pretraining step; nothing flows back into the encoder.

    The embeddings are first standardised by running figures without scale or shift, as in the linear probe of MAE
    (He et al. 2022, appendix A.1), so that objectives whose embeddings differ in scale meet the same probe. Weights
    begin at zero: no random number. An online figure is not an offline one: the encoder moved while the probe
    learned, and it saw augmented views.

    Args:
        dim: width D of the embeddings.
        classes: number of classes; labels are 0 .. classes - 1, and -1 where unknown, which is left out.
        lr: Adam's step size (Kingma and Ba 2015, algorithm 1).
        device: where the embeddings are.
    """

    def __init__(self, dim: int, classes: int, lr: float = 1e-3, device: torch.device | str = "cpu") -> None:
        self.dim, self.classes, self.lr, self.updates = dim, classes, lr, 0
        self.theta = torch.zeros(classes, dim + 1, device=device)  # weights, and the bias as the last column
        self.first, self.second = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.mean, self.var = torch.zeros(dim, device=device), torch.ones(dim, device=device)

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor) -> float:
        """One step on `embeddings` `(M, D)` and `labels` `(N,)` int64; returns the cross-entropy before it.

        M is a multiple of N: the views of a batch one after another (view 1 of every sample, then view 2), and the
        labels are repeated for each.

        Raises:
            InputError: shapes or labels do not fit.
        """
        self._check(embeddings, labels)
        known = labels.repeat(len(embeddings) // len(labels))
        keep = known >= 0
        rows, known = embeddings.detach().float()[keep], known[keep]
        if len(rows) < 2:
            return float("nan")  # no batch statistics from one row
        mean, var = rows.mean(0), rows.var(0, unbiased=False)
        share = 1.0 if self.updates == 0 else MOMENTUM
        self.mean, self.var = torch.lerp(self.mean, mean, share), torch.lerp(self.var, var, share)
        x = self._standard(rows, mean, var)
        logits = x @ self.theta.T
        error = (logits.softmax(1) - F.one_hot(known, self.classes)) / len(rows)
        self._adam(error.T @ x)
        return float(F.cross_entropy(logits, known))

    @torch.no_grad()
    def predict(self, embeddings: Tensor) -> Tensor:
        """Classes `(N,)` int64 of `embeddings` `(N, D)`, standardised by the running figures."""
        x = self._standard(embeddings.detach().float(), self.mean, self.var)
        return (x @ self.theta.T).argmax(1)

    def accuracy(self, embeddings: Tensor, labels: Tensor) -> float:
        """Share in [0, 1] of `embeddings` `(M, D)` whose class is that of `labels` `(N,)`, repeated as in `update`."""
        self._check(embeddings, labels)
        known = labels.repeat(len(embeddings) // len(labels))
        right = (self.predict(embeddings) == known)[known >= 0]
        return float(right.float().mean())

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> OnlineProbe:
        """The probe that `state` saved, on the CPU."""
        classes, columns = state["theta"].shape
        probe = cls(columns - 1, classes)
        probe.load(state)
        return probe

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name; `load` takes it back."""
        count = torch.tensor([float(self.updates)])
        named = {"theta": self.theta, "first": self.first, "second": self.second, "mean": self.mean, "var": self.var}
        return {name: value.detach().cpu().clone() for name, value in named.items()} | {"updates": count}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become what `state` saved; InputError where it belongs to a probe of another size."""
        if state["theta"].shape != self.theta.shape:
            found, expected = tuple(state["theta"].shape), tuple(self.theta.shape)
            raise InputError(f"online probe: saved weights are {found}, expected {expected}; the classes or D changed")
        device = self.theta.device
        self.theta, self.first, self.second, self.mean, self.var = (
            state[name].to(device).clone() for name in ("theta", "first", "second", "mean", "var")
        )
        self.updates = int(state["updates"].item())

    def _adam(self, gradient: Tensor) -> None:
        self.updates += 1
        self.first = torch.lerp(gradient, self.first, BETA1)
        self.second = torch.lerp(gradient.square(), self.second, BETA2)
        m = self.first / (1 - BETA1**self.updates)
        v = self.second / (1 - BETA2**self.updates)
        self.theta = self.theta - self.lr * m / (v.sqrt() + EPS)

    def _standard(self, rows: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        x = (rows - mean) * torch.rsqrt(var + 1e-6)
        return torch.cat([x, torch.ones_like(x[:, :1])], 1)

    def _check(self, embeddings: Tensor, labels: Tensor) -> None:
        n = len(labels)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim or n == 0 or len(embeddings) % n:
            raise InputError(
                f"online probe: expected embeddings (M, {self.dim}) with M a multiple of the {n} labels, "
                f"found {tuple(embeddings.shape)}"
            )
        if labels.dtype != torch.int64 or int(labels.max()) >= self.classes or int(labels.min()) < -1:
            raise InputError(f"online probe: labels are {labels.dtype}; expected int64 in -1..{self.classes - 1}")
