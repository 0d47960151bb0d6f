"""Do no harm: notice when a training step breaks the network or its embeddings collapse."""

import math
from collections.abc import Mapping
from enum import Enum

import numpy as np

from edgessl.device.storage.tensors import Array

WATCHED = ("embedding_std", "effective_rank")


class Verdict(Enum):
    """What to do after a step: keep it, take it back, or return to the last good generation."""

    KEEP = "keep"
    REJECT = "reject"
    ROLL_BACK = "roll back"


class Guard:
    """Judges each step by its metrics.

    A step with a metric that is not finite is rejected; `patience` rejected in a row call for a rollback. The
    mean of the first `warmup` kept steps is the baseline; `patience` steps in a row whose embedding_std or
    effective_rank is below `floor` times the baseline are a collapse (as in Jing et al., "Understanding
    dimensional collapse in contrastive self-supervised learning", ICLR 2022) and call for a rollback.
    """

    def __init__(self, warmup: int = 8, floor: float = 0.25, patience: int = 4) -> None:
        self.warmup, self.floor, self.patience = warmup, floor, patience
        self._baseline = dict.fromkeys(WATCHED, 0.0)
        self._kept = self._broken = self._collapsed = 0

    def judge(self, metrics: Mapping[str, float]) -> tuple[Verdict, str]:
        """The verdict on one step and the reason for it ("" when it is kept)."""
        if bad := sorted(name for name, value in metrics.items() if not math.isfinite(value)):
            self._broken += 1
            reason = f"{', '.join(bad)} not finite"
            if self._broken < self.patience:
                return Verdict.REJECT, reason
            return self._roll_back(f"{reason} in {self.patience} steps in a row")
        self._broken = 0
        if self._kept < self.warmup:
            self._kept += 1
            for name in WATCHED:
                self._baseline[name] += (metrics[name] - self._baseline[name]) / self._kept
            return Verdict.KEEP, ""
        low = [name for name in WATCHED if metrics[name] < self.floor * self._baseline[name]]
        self._collapsed = self._collapsed + 1 if low else 0
        if self._collapsed < self.patience:
            return Verdict.KEEP, ""
        name = low[0]
        return self._roll_back(f"collapse: {name} {metrics[name]:.3g}, usual {self._baseline[name]:.3g}")

    def _roll_back(self, reason: str) -> tuple[Verdict, str]:
        self._broken = self._collapsed = 0
        return Verdict.ROLL_BACK, reason

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        counts = [self._kept, self._broken, self._collapsed]
        return {"guard": np.array([*counts, *(self._baseline[n] for n in WATCHED)], np.float64)}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        kept, broken, collapsed, *baseline = (float(v) for v in tensors["guard"])
        self._kept, self._broken, self._collapsed = int(kept), int(broken), int(collapsed)
        self._baseline = dict(zip(WATCHED, baseline, strict=True))
