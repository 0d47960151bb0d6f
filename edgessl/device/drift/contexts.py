"""Contexts that a stream has been in, each by a few embeddings, to know one when it comes back."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.drift.compensation import Displacement
from edgessl.device.drift.windows import separation, thin
from edgessl.device.storage.tensors import Array

Float = npt.NDArray[np.float32]


class Contexts:
    """At most `most` contexts, ROWS embeddings each (half precision: 64 D bytes a context).

    A new context is the earlier one from which it is least separated (drift_windows.separation, energy distance),
    when that is below `limit`. The context that was entered longest ago makes way when there are too many; numbers
    are never used again.
    """

    ROWS = 32

    def __init__(self, dim: int, most: int = 8, limit: float = 4.0) -> None:
        self.most, self.limit = most, limit
        self._rows: npt.NDArray[np.float16] = np.zeros((0, self.ROWS, dim), np.float16)  # the latest entered last
        self._names = np.zeros(0, np.int64)
        self.count = 0  # ever met

    def enter(self, z: Float) -> int:
        """The number of the context that embeddings `z` (N, D), N >= ROWS, are of; a new one when none is alike."""
        rows = thin(z, self.ROWS).astype(np.float16)
        apart = [separation(z, kept.astype(np.float32)) for kept in self._rows]
        keep = np.ones(len(self._rows), np.bool_)
        if apart and min(apart) < self.limit:
            best = int(np.argmin(apart))
            name = int(self._names[best])
            keep[best] = False
        else:
            name = self.count
            self.count += 1
            keep[: len(keep) + 1 - self.most] = False
        self._rows = np.concatenate([self._rows[keep], rows[None]])
        self._names = np.append(self._names[keep], name)
        return name

    def move(self, moved: Displacement) -> None:
        """The encoder has changed: so do the embeddings that are kept."""
        for i, rows in enumerate(self._rows):
            self._rows[i] = moved.apply(rows)

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""
        return {"rows": self._rows, "names": self._names, "count": np.array([self.count], np.int64)}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""
        self._rows, self._names = np.array(tensors["rows"]), np.array(tensors["names"])
        self.count = int(tensors["count"][0])
