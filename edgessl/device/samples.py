"""What the device accepts as data, checked in one place, and gone through in parts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.device.bundle.specs import InputSpec
from edgessl.errors import InputError

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Percept:
    """Samples as a learner remembers them (N, *shape), their embeddings (N, D), and whether a batch was given.

    `statistics` (N, S) of the raw samples: see drift.statistics.input_statistics.
    """

    samples: Float
    embeddings: Float
    statistics: npt.NDArray[np.float64]
    batch: bool

    @property
    def embedding(self) -> Float:
        """(N, D) of a batch, (D,) of one sample."""
        return self.embeddings if self.batch else self.embeddings[0]


def as_batch(x: Float, spec: InputSpec) -> Float:
    """`x`, one sample (*shape) or a batch (N, *shape), as a batch, without a copy.

    Raises InputError for another type, dtype (nothing is cast behind the caller's back) or shape, for an
    empty batch, for NaN or infinity, and for tokens that are not ids of the vocabulary.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"samples: expected a float32 array, found {found}; cast with x.astype(np.float32)")
    batch = x[None] if x.shape == spec.shape else x
    if batch.shape[1:] != spec.shape or len(batch) == 0:
        wanted = f"{list(spec.shape)} or [N, {', '.join(map(str, spec.shape))}] with N >= 1"
        raise InputError(f"samples: expected shape {wanted} ({spec.kind}), found {list(x.shape)}")
    if not np.isfinite(batch).all():
        raise InputError("samples: NaN or infinity in the data; drop or repair these samples")
    if spec.kind == "tokens":
        known = (batch >= 0) & (batch < spec.vocabulary) & (batch == np.floor(batch))
        if not known.all():
            last, wrong = spec.vocabulary - 1, batch[~known][0]
            raise InputError(f"samples: expected token ids, whole numbers from 0 to {last}, found {wrong:g}")
    return batch


def in_batches(run: Callable[[Float], Float], x: Float, rows: int) -> Float:
    """What `run` makes of `x` (N, ...), N >= 1, at most `rows` of it at a time so that memory stays bounded."""
    return np.concatenate([run(np.ascontiguousarray(x[i : i + rows])) for i in range(0, len(x), rows)])
