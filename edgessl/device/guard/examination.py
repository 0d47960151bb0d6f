"""Do no harm to what was known: the replayed past and the enrolled exemplars, before and after learning."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.device.heads.novelty import unit
from edgessl.device.storage.tensors import Array

Float = npt.NDArray[np.float32]
LEAST = 16  # remembered samples that say something
NEIGHBOURS = 5
OVERLAP = (
    0.15  # of nearest neighbours; chance among 32 is 0.16, among 64 0.08, learning that adapts keeps more than half
)
COLLAPSE = 0.25  # of the effective rank and of the spread
DROP, LOST = 0.1, 3  # of the exemplars recognised when left out


def harm(before: Float, after: Float) -> str:
    """What happened to samples embedded as `before` (M, D) by weights known to be good; "" when nothing bad.

    Collapse: their effective rank or spread (of directions) fell below a quarter. Scrambled: of the five nearest
    neighbours of a sample fewer stayed than chance leaves plus OVERLAP times the rest, on average, which no
    adaptation does. Nothing is said about fewer than LEAST samples.
    """
    if len(before) < LEAST:
        return ""
    for name, measure in (("effective rank", effective_rank), ("spread", spread)):
        was, now = measure(before), measure(after)
        if now < COLLAPSE * was:
            return f"{name} of the past {now:.3g}, was {was:.3g}"
    kept, chance = neighbour_overlap(before, after), NEIGHBOURS / (len(before) - 1)
    if spread(before) > 1e-6 and kept < chance + OVERLAP * (1 - chance):
        return f"neighbours of the past: {kept:.0%} kept, {chance:.0%} is chance"
    return ""


def effective_rank(z: Float) -> float:
    """tr(C)^2 / |C|^2 of the covariance of the directions (N, D): from 1 to D; 1 for equal rows."""
    off = unit(z) - unit(z).mean(0)
    gram = off @ off.T if len(z) < z.shape[1] else off.T @ off
    squares = float((gram**2).sum())
    return float(np.trace(gram)) ** 2 / squares if squares > 1e-24 else 1.0


def spread(z: Float) -> float:
    """Root mean square distance of the directions (N, D) to their mean: from 0 to 1."""
    return float(np.sqrt(unit(z).var(0).sum()))


def neighbour_overlap(before: Float, after: Float) -> float:
    """Share of each sample's NEIGHBOURS nearest others (cosine) that are the same in both embeddings (M, D)."""
    near = []
    for z in (before, after):
        among = unit(z) @ unit(z).T
        np.fill_diagonal(among, -np.inf)
        near.append(np.argsort(-among, axis=1, kind="stable")[:, :NEIGHBOURS])
    same = (near[0][:, :, None] == near[1][:, None, :]).any(2)
    return float(same.mean())


@dataclass(frozen=True)
class Probe:
    """Of `total` exemplars `right` are recognised by the others; `version` counts what was ever enrolled."""

    right: int
    total: int
    version: int


class Examination:
    """When to look at the past again, how often it was harmed, and whether learning is frozen.

    Due after every `every` kept steps and before a generation counts as good. A harm, and every other rollback that
    the guard calls for, counts; `patience` of them without a good generation in between freeze learning. Labelled
    probes are compared with the best they ever were since the last `enroll`, so that a slow decline shows too.
    """

    def __init__(self, every: int = 16, patience: int = 3) -> None:
        self.every, self.patience = every, patience
        self.steps = self.harms = 0  # since the last examination; since the last good generation
        self._best = self._version = 0

    @property
    def frozen(self) -> bool:
        """Whether learning has to wait for `thaw`."""
        return self.harms >= self.patience

    @property
    def due(self) -> bool:
        """Whether enough steps have been taken."""
        return self.steps >= self.every

    def unknown(self, probe: Probe) -> bool:
        """Whether these exemplars were never judged, so that good weights' probe has to come first."""
        return probe.version != self._version

    def probes(self, probe: Probe | None) -> str:
        """Judge probes; "" when they are as good as they were."""
        if probe is None:
            return ""
        if self.unknown(probe):
            self._best, self._version = 0, probe.version
        lost = self._best - probe.right
        if lost >= max(LOST, DROP * probe.total):
            return f"probes: {probe.right} of {probe.total} exemplars recognised, were {self._best}"
        self._best = max(self._best, probe.right)
        return ""

    def thaw(self) -> None:
        """Whoever is in charge says that learning may go on."""
        self.harms = 0

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {"counts": np.array([self.steps, self.harms, self._best, self._version], np.int64)}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self.steps, self.harms, self._best, self._version = (int(v) for v in tensors["counts"])
