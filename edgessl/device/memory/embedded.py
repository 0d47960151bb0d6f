"""Policies that look at embeddings: balanced clusters, least redundancy, herding.

Each keeps the embedding of every held sample, of length 1 and in half precision (2 D bytes a sample, within the
declared budget), and compares a newcomer with all of them, or with cluster centres: up to 6 L D multiplications a
sample for L places. Embeddings age as the encoder learns; the memory hands over fresh ones of the samples it happened
to embed anyway.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.noise import POLICY, stream
from edgessl.device.storage.tensors import Array

Float = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


def directions(z: Float) -> npt.NDArray[np.float16]:
    """Rows of `z` (N, D) scaled to length 1 (zero rows stay zero), in half precision."""
    wide = z.astype(np.float64)
    return (wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)).astype(np.float16)


class Embedded:
    """What these policies share: the embeddings of the held samples, by place."""

    def __init__(self, size: int, dim: int, seed: int) -> None:
        self._seed = seed
        self._z = np.zeros((size, dim), np.float16)
        self._count = 0  # places filled
        self.row_bytes = 2 * dim

    def choose(self, number: int, z: Float | None) -> int:
        """See memory.policy.Policy."""
        assert z is not None
        row = directions(z[None])[0].astype(np.float32)
        if number < len(self._z):
            place = number
            self._count = number + 1
        else:
            place = self._replaced(number, row)
        if place >= 0:
            self._z[place] = row
        self._placed(number, place, row)
        return place

    def _replaced(self, number: int, row: Float) -> int:
        """The place that a newcomer takes when every place is taken, or -1."""
        raise NotImplementedError

    def _placed(self, number: int, place: int, row: Float) -> None:
        """The newcomer lies in `place` now, or was dropped (-1)."""
        raise NotImplementedError

    def _held(self) -> Float:
        return self._z[: self._count].astype(np.float32)

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {"z": self._z[: self._count]}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self._count = len(tensors["z"])
        self._z[: self._count] = tensors["z"]


class MinRed(Embedded):
    """Least redundancy: of the two most similar samples (cosine), the newcomer included, one makes way.

    Purushwalkam et al., "The challenges of continuous self-supervised learning", ECCV 2022 (MinRed). Which of the
    two the paper leaves open: here the one that is closer to a third, and of equals the newcomer.
    """

    def __init__(self, size: int, dim: int, seed: int) -> None:
        super().__init__(size, dim, seed)
        self._near = np.full(size, -np.inf, np.float32)  # similarity to the most similar other
        self._nearest = np.full(size, -1, np.int64)  # and its place
        self._new: Float = np.zeros(0, np.float32)  # similarities of the newcomer, between choosing and placing

    def _replaced(self, number: int, row: Float) -> int:
        self._new = new = self._held() @ row
        twin, other = int(new.argmax()), int(self._near.argmax())
        if new[twin] >= self._near[other]:
            return twin if self._near[twin] > self._second(new, twin) else -1
        first, second = other, int(self._nearest[other])
        # the partner's own similarity is the pair's; what counts is the next one
        return max((second, first), key=lambda p: self._third(p, first if p == second else second))

    def _third(self, place: int, partner: int) -> float:
        among = self._held() @ self._z[place].astype(np.float32)
        among[place] = -np.inf
        return max(self._second(among, partner), float(self._new[place]))

    @staticmethod
    def _second(similarity: Float, but: int) -> float:
        rest = similarity.copy()
        rest[but] = -np.inf
        return float(rest.max(initial=-np.inf))

    def _placed(self, number: int, place: int, row: Float) -> None:
        if place < 0:
            return
        new = self._held() @ row
        stale = np.flatnonzero(self._nearest[: self._count] == place)
        closer = new > self._near[: self._count]
        closer[place] = False
        self._near[: self._count][closer], self._nearest[: self._count][closer] = new[closer], place
        self._search(np.union1d(stale, [place]))

    def _search(self, places: Places) -> None:
        """The nearest other of each of `places` from scratch."""
        if self._count < 2:
            return
        held = self._held()
        for place in places:
            among = held @ held[place]
            among[place] = -np.inf
            self._nearest[place] = among.argmax()
            self._near[place] = among[self._nearest[place]]

    def refresh(self, places: Places, z: Float) -> None:
        """See memory.policy.Policy; costs 2 L^2 D multiplications, for all pairs may have changed."""
        self._z[places] = directions(z)
        self._search(np.arange(self._count))

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        n = self._count
        return {**super().tensors(), "near": self._near[:n], "nearest": self._nearest[:n]}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        super().restore(tensors)
        self._near[: self._count], self._nearest[: self._count] = tensors["near"], tensors["nearest"]


class Herding(Embedded):
    """Herding: the samples whose mean stays closest to the mean of all samples so far.

    Welling, "Herding dynamical weights to learn", ICML 2009, as iCaRL (Rebuffi et al., CVPR 2017) uses it, but for
    one pass over a stream: of the L + 1 the one whose removal leaves the best mean makes way.
    """

    def __init__(self, size: int, dim: int, seed: int) -> None:
        super().__init__(size, dim, seed)
        self._mean = np.zeros(dim, np.float64)  # of all that left the ring
        self._seen = 0

    def _replaced(self, number: int, row: Float) -> int:
        held = self._held().astype(np.float64)
        mean = self._mean + (row - self._mean) / (self._seen + 1)
        excess = held.sum(0) + row - len(held) * mean
        # |excess - z|^2 up to a constant; the newcomer first, so that it goes when nothing is gained
        rows = np.concatenate([row[None].astype(np.float64), held])
        return int((0.5 * (rows**2).sum(1) - rows @ excess).argmin()) - 1

    def _placed(self, number: int, place: int, row: Float) -> None:
        self._seen += 1
        self._mean += (row - self._mean) / self._seen

    def refresh(self, places: Places, z: Float) -> None:
        """See memory.policy.Policy. The mean of what is gone moves as what is held has moved on average.

        Yu et al., "Semantic drift compensation for class-incremental learning", CVPR 2020.
        """
        fresh = directions(z)
        self._mean += (fresh.astype(np.float64) - self._z[places]).mean(0)
        self._z[places] = fresh

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {**super().tensors(), "mean": self._mean, "seen": np.array([self._seen], np.int64)}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        super().restore(tensors)
        self._mean = np.array(tensors["mean"], np.float64)
        self._seen = int(tensors["seen"][0])


class Balanced(Embedded):
    """Balance without labels: clusters of embeddings found online take the part of classes.

    Class-balancing reservoir sampling (Chrysakis & Moens, "Online continual learning from imbalanced data", ICML
    2020): a sample of a cluster that was never the largest replaces a random one of the largest; else it enters its
    own cluster's reservoir. A sample farther from every centre than the two closest centres are from each other
    starts a cluster, and those two become one (after Charikar et al., "Incremental clustering", STOC 1997), so that
    what comes late gets a cluster too.
    """

    RATE = 0.01  # least rate at which a centre follows its samples

    def __init__(self, size: int, dim: int, seed: int) -> None:
        super().__init__(size, dim, seed)
        clusters = max(2, min(32, size // 8))
        self._centres = np.zeros((clusters, dim), np.float32)
        self._seen = np.zeros(clusters, np.int64)  # samples of each cluster so far; 0: not yet in use
        self._full = np.zeros(clusters, np.bool_)  # was the largest once
        self._owner = np.zeros(size, np.int64)

    def _replaced(self, number: int, row: Float) -> int:
        self._own = own = self._assign(row)
        held = np.bincount(self._owner, minlength=len(self._seen))
        self._full |= held == held.max()
        rng = stream(self._seed, POLICY, number)
        giver = own if self._full[own] and held[own] else int(held.argmax())
        members = np.flatnonzero(self._owner == giver)
        if giver == own and int(rng.integers(self._seen[own])) >= held[own]:
            return -1
        return int(members[rng.integers(len(members))])

    def _placed(self, number: int, place: int, row: Float) -> None:
        if number < len(self._z):
            self._own = self._assign(row)
        if place >= 0:
            self._owner[place] = self._own

    def _assign(self, row: Float) -> int:
        """The newcomer's cluster, which follows it or is new."""
        used = np.flatnonzero(self._seen)
        similarity = self._centres @ row
        own = int(used[similarity[used].argmax()]) if len(used) else 0
        if len(used) < len(self._seen):
            if not len(used) or similarity[own] < 1 - 1e-3:  # one that is no copy of a centre
                own = len(used)
        else:
            among = self._centres @ self._centres.T
            np.fill_diagonal(among, -np.inf)
            keep, gone = divmod(int(among.argmax()), len(among))
            if similarity[own] < among[keep, gone]:
                self._merge(keep, gone)
                own = gone
        self._seen[own] += 1
        rate = max(1 / self._seen[own], self.RATE)
        centre = self._centres[own] + rate * (row - self._centres[own])
        self._centres[own] = centre / max(float(np.linalg.norm(centre)), 1e-12)
        return own

    def _merge(self, keep: int, gone: int) -> None:
        weight = self._seen[[keep, gone]]
        centre = weight @ self._centres[[keep, gone]]
        self._centres[keep] = centre / max(float(np.linalg.norm(centre)), 1e-12)
        self._seen[keep], self._seen[gone] = weight.sum(), 0
        self._full[keep], self._full[gone] = self._full[[keep, gone]].any(), False
        self._owner[: self._count][self._owner[: self._count] == gone] = keep

    def refresh(self, places: Places, z: Float) -> None:
        """See memory.policy.Policy. Each centre moves as its refreshed members have, then these are assigned anew."""
        fresh = directions(z)
        moved = fresh.astype(np.float32) - self._z[places]
        for own in np.unique(self._owner[places]):
            centre = self._centres[own] + moved[self._owner[places] == own].mean(0)
            self._centres[own] = centre / max(float(np.linalg.norm(centre)), 1e-12)
        self._z[places] = fresh
        used = np.flatnonzero(self._seen)
        self._owner[places] = used[(fresh.astype(np.float32) @ self._centres[used].T).argmax(1)]

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {
            **super().tensors(),
            "owner": self._owner[: self._count],
            "centres": self._centres,
            "seen": self._seen,
            "full": self._full,
        }

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        super().restore(tensors)
        self._owner[: self._count] = tensors["owner"]
        self._centres, self._seen = np.array(tensors["centres"]), np.array(tensors["seen"])
        self._full = np.array(tensors["full"])
