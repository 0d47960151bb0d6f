"""Which of the samples that leave the recent ring stay, and in whose place: the policies of the replay memory."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgessl.device.memory.embedded import Balanced, Herding, MinRed
from edgessl.device.noise import RESERVOIR, stream
from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError

Float = npt.NDArray[np.float32]


class Policy(Protocol):
    """Chooses among `size` places for older samples; deterministic in (seed, number, embeddings so far).

    `row_bytes`: what it keeps for each sample the memory holds (0: it does not look at embeddings).
    """

    row_bytes: int

    def choose(self, number: int, z: Float | None) -> int:
        """The place in [0, size) for the `number`-th (from 0) sample that leaves the ring, or -1: drop it.

        The first `size` samples fill the places in order. `z`: its embedding (D,), when `row_bytes` > 0.
        """

    def refresh(self, places: npt.NDArray[np.int64], z: Float) -> None:
        """Embeddings (N, D) by the present encoder of what lies in `places`, none twice."""

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""


class Blind:
    """What policies have in common that never look at a sample: nothing to keep, nothing to refresh."""

    row_bytes = 0

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed

    def refresh(self, places: npt.NDArray[np.int64], z: Float) -> None:
        """Nothing to do."""

    def tensors(self) -> dict[str, Array]:
        """Nothing."""
        return {}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Nothing to do."""


class Reservoir(Blind):
    """A fair sample: every sample older than the ring has the same chance to be held, none is held twice.

    Algorithm R of Vitter, "Random sampling with a reservoir", ACM TOMS 1985. O(1) a sample.
    """

    def choose(self, number: int, z: Float | None) -> int:
        """Uniform over the number + 1 samples so far."""
        place = number if number < self._size else int(stream(self._seed, RESERVOIR, number).integers(number + 1))
        return place if place < self._size else -1


class Fifo(Blind):
    """The latest: a longer window behind the ring. O(1) a sample.

    Purushwalkam et al., "The challenges of continuous self-supervised learning", ECCV 2022, call it a FIFO buffer.
    """

    def choose(self, number: int, z: Float | None) -> int:
        """The oldest makes way."""
        return number % self._size


class Recent(Blind):
    """The ring alone: no replay of anything older, the fine-tuning baseline. O(1) a sample."""

    def choose(self, number: int, z: Float | None) -> int:
        """Never."""
        return -1


POLICIES = ("reservoir", "recent", "fifo", "balanced", "minred", "herding")
_BLIND: dict[str, Callable[[int, int], Policy]] = {"reservoir": Reservoir, "recent": Recent, "fifo": Fifo}
_EMBEDDED: dict[str, Callable[[int, int, int], Policy]] = {
    "balanced": Balanced,
    "minred": MinRed,
    "herding": Herding,
}


def row_bytes(name: str, dim: int) -> int:
    """Bytes that policy `name` keeps for each sample in memory; ConfigError when there is no such policy."""
    if name not in POLICIES:
        raise ConfigError(f"replay memory: unknown policy {name!r}; choose one of {', '.join(POLICIES)}")
    if name in _EMBEDDED and dim < 1:
        raise ConfigError(f"replay memory: policy {name!r} looks at embeddings; give embedding_dim")
    return 2 * dim if name in _EMBEDDED else 0


def build_policy(name: str, size: int, dim: int, seed: int) -> Policy:
    """Policy `name` for `size` places and embeddings of `dim` numbers."""
    return _EMBEDDED[name](size, dim, seed) if name in _EMBEDDED else _BLIND[name](size, seed)
