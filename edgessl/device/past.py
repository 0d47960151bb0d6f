"""What a learner keeps of the past, and keeps true while the encoder changes."""

import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgessl.device.bundle.manifest import Manifest
from edgessl.device.drift.compensation import Displacement
from edgessl.device.drift.monitor import DriftMonitor
from edgessl.device.drift.statistics import statistics_width
from edgessl.device.guard.examination import Examination, harm
from edgessl.device.heads.few_label import FewLabelHead
from edgessl.device.heads.novelty import NOVELTIES, Novelty
from edgessl.device.heads.prototypes import PrototypeHead
from edgessl.device.memory.codec import ByteCodec, Codec
from edgessl.device.memory.replay import Draw, ReplayMemory
from edgessl.device.runners import Weights
from edgessl.errors import ConfigError

Float = npt.NDArray[np.float32]
BANK = 64  # remembered samples that stand for the past


@dataclass(frozen=True)
class View:
    """Remembered samples, and what `weights` make of them: embeddings `z` (N, D)."""

    draw: Draw
    weights: Weights
    z: Float


class Embed(Protocol):
    """Embeddings (N, D) of samples by the present weights, or by others."""

    def __call__(self, samples: Float, weights: Weights | None = None) -> Float:
        """Raises StateError when they are not finite."""


@dataclass(frozen=True)
class Keep:
    """What to keep, and how: the settings that `Learner.open` explains."""

    memory_bytes: int
    policy: str
    codec: Codec | None
    exemplar_bytes: int
    head: str
    reject: float
    novelty: str


class Past:
    """Memory, head, drift monitor and novelty of one learner; `lock` guards them against other threads.

    What is kept in embeddings is kept in those of the weights that `follow` was last told.
    """

    def __init__(self, manifest: Manifest, keep: Keep, seed: int, embed: Embed, lock: threading.RLock) -> None:
        if keep.novelty not in NOVELTIES:
            raise ConfigError(f"unknown novelty {keep.novelty!r}; choose one of {', '.join(NOVELTIES)}")
        shape, dim, latent, codec = manifest.learned.shape, manifest.embedding_dim, manifest.latent, keep.codec
        if codec is None and latent is not None:
            codec = ByteCodec(latent.scale, latent.zero_point)  # lossless: the backbone's latents lie on this grid
        self.memory = ReplayMemory(
            keep.memory_bytes,
            shape,
            policy=keep.policy,
            codec=codec,
            embedding_dim=dim,
            stored_dim=dim if manifest.stores else 0,
            seed=seed,
            least=manifest.batch_size,
        )
        self.head: FewLabelHead | PrototypeHead = (
            FewLabelHead(keep.exemplar_bytes, shape, embed, keep.head, keep.reject)
            if keep.exemplar_bytes
            else PrototypeHead(dim, embed, keep.head, keep.reject)
        )
        self.monitor = DriftMonitor(dim, statistics_width(manifest.input.shape))
        self._make_novelty, self._embed, self._lock = NOVELTIES[keep.novelty], embed, lock
        self._weights: Weights | None = None
        self._novelty: Novelty | None = None
        self._novelty_seen = 0

    def draw(self, t: int) -> Draw | None:
        """Draw number `t` of remembered samples, half of them recent; None while there are none."""
        with self._lock:
            return self.memory.sample(min(BANK, len(self.memory)), t) if len(self.memory) else None

    def older(self, t: int) -> Float | None:
        """Remembered samples older than the latest, or the latest while there are no others; None while none."""
        draw = self.draw(t)
        return None if draw is None else draw.samples[_older(draw)]

    def resume(self, weights: Weights) -> None:
        """What is kept is in the embedding of `weights` already."""
        self._weights = weights

    def view(self, weights: Weights, t: int) -> View | None:
        """Draw number `t` and its embeddings by `weights`; None while nothing is remembered. Costs BANK embeddings."""
        draw = self.draw(t)
        return None if draw is None else View(draw, weights, self._embed(draw.samples, weights))

    def follow(self, weights: Weights, t: int) -> View | None:
        """The encoder has changed to `weights`: embed again, now or when next used, or move along.

        Returns the view by them. Costs 2 BANK embeddings.
        """
        view, moved = self.view(weights, t), None
        if view is not None:  # outside the lock: observe need not wait
            moved = Displacement(self._embed(view.draw.samples, self._weights), view.z)
        with self._lock:
            self.head.invalidate(moved)
            self._novelty, self._weights = None, weights
            if view is not None:
                self.memory.refresh(view.draw, view.z)
                self.monitor.rebase(view.z[: view.draw.recent], moved)
        return view

    def novelty(self, z: Float, t: int) -> npt.NDArray[np.float64]:
        """Scores (N,) of embeddings (N, D); see novelty.Novelty."""
        with self._lock:
            if self._novelty is None or self.memory.seen > 1.5 * self._novelty_seen:
                past = self.draw(t)
                self._novelty = self._make_novelty(z[:0] if past is None else self._embed(past.samples))
                self._novelty_seen = self.memory.seen
            return self._novelty.score(z)

    def examine(self, good: Weights, now: Weights, view: View | None, exam: Examination) -> str:
        """What `now` has done to the past that `good` had not, "" for nothing; see guard.examination.

        `view` is by `now`. Costs at most BANK embeddings, and two of each exemplar.
        """
        found = ""
        if view is not None:
            rows = _older(view.draw)
            found = harm(self._embed(view.draw.samples[rows], good), view.z[rows])
        with self._lock:
            probe = self.head.probe(lambda x: self._embed(x, now))
            if probe is not None and exam.unknown(probe):
                exam.probes(self.head.probe(lambda x: self._embed(x, good)))
        return found or exam.probes(probe)


def _older(draw: Draw) -> slice:
    """The rows of a draw that are older than the latest, or all while there are no others."""
    return slice(draw.recent if draw.recent < len(draw.samples) else 0, None)
