"""What a device keeps on disk so that it and the server can speak in differences."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgessl.device.storage.state import StateStore
from edgessl.errors import FederationError
from federated.codecs.codec import Codec

FOLDER = "link"  # in the learner's directory
WHOLE = "whole"  # a server that sends differences and wants theta itself back

Bytes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]


class DeviceLink:
    """The fleet's weights that this device has, float32 (P,), and the residual of its own updates, float32 (P,).

    `directory` is locked from here to `close()`; two generations of up to 12 P bytes each lie there, and a power loss
    leaves one of them. Raises StateError, StateLockedError and StateMismatchError as `StateStore` does.
    """

    def __init__(self, directory: str | os.PathLike[str], digest: str) -> None:
        self._store = StateStore(directory, digest)
        try:
            saved = self._store.load()
        except BaseException:
            self._store.close()
            raise
        kept = saved.tensors if saved else {}
        self._names = {"version": "", "lineage": "", "round": "0", **(saved.metadata if saved else {})}
        self._theta: Float | None = kept.get("theta")
        self._residual: Float | None = kept.get("residual")
        self._before: Float | None = kept.get("before")  # the residual that this round began with

    @property
    def references(self) -> Mapping[str, Float]:
        """The weights that a payload may be a difference from, by version; for `message.unpack`."""
        return {} if self._theta is None else {self._names["version"]: self._theta}

    @property
    def residual_norm(self) -> float:
        """How much of its updates this device has not sent yet, as a Euclidean norm."""
        return 0.0 if self._residual is None else float(np.linalg.norm(self._residual))

    def received(self, theta: Float, version: str, lineage: str, number: int) -> None:
        """The fleet's weights are these now.

        What was owed under another `lineage` (run, rollback) is owed no more; a round `number` that is asked for again
        begins with what it began with the first time.
        """
        if lineage != self._names["lineage"]:
            self._residual = None
        elif self._names["round"] == str(number):
            self._residual = self._before
        self._before = self._residual
        self._theta = np.array(theta, np.float32)
        self._names = {"version": version, "lineage": lineage, "round": str(number)}

    def encode(self, theta: Float, codec: Codec, adopted: Float | None = None) -> Bytes:
        """The payload uint8 (N,) for weights (P,) learned from those received; what it leaves out is owed from now on.

        `adopted` (P,): what the device really started from, where a rule (FedEMA, FedU) keeps some of its own. There
        the device's own weights hold what was left out, and it is not owed a second time. Call `save` once the reply is
        made: until then a restart knows nothing of this payload.
        """
        if self._theta is None:
            raise FederationError("there are no weights of the fleet to encode a difference from")
        owed = self._residual
        if adopted is not None and owed is not None:
            owed = np.where(adopted == self._theta, owed, np.float32(0))
        payload, residual = codec.encode(theta, self._theta, owed)
        self._residual = None if codec.lossless else residual
        return payload

    def settle(self) -> None:
        """Weights went out whole: nothing is owed."""
        self._residual = None

    def save(self) -> None:
        """Put it safely on disk; StateError when the disk refuses."""
        parts = {"theta": self._theta, "residual": self._residual, "before": self._before}
        self._store.save({name: values for name, values in parts.items() if values is not None}, self._names)

    def close(self) -> None:
        """Let go of the directory; may be called again."""
        self._store.close()


@contextmanager
def linked(config: Mapping[str, Any], key: str, directory: Path, digest: str) -> Iterator[DeviceLink | None]:
    """The link in a learner's directory while a message is answered; None when its config has no codec under `key`."""
    if key not in config:
        yield None
        return
    link = DeviceLink(directory / FOLDER, digest)
    try:
        yield link
    finally:
        link.close()
