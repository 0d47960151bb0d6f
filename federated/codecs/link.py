"""What a device keeps on disk so that it and the server can speak in differences."""

import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.storage.state import StateStore
from edgessl.errors import FederationError
from federated.codecs.codec import Codec

Bytes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]


class DeviceLink:
    """The fleet's weights that this device has, float32 (P,), and the residual of its own updates, float32 (P,).

    `directory` is locked from here to `close()`; two generations lie there, 8 P bytes each, and a power loss leaves one
    of them. Raises StateError, StateLockedError and StateMismatchError as `StateStore` does.
    """

    def __init__(self, directory: str | os.PathLike[str], digest: str) -> None:
        self._store = StateStore(directory, digest)
        try:
            saved = self._store.load()
        except BaseException:
            self._store.close()
            raise
        kept = saved.tensors if saved else {}
        self._version = saved.metadata["version"] if saved else ""
        self._lineage = saved.metadata["lineage"] if saved else ""
        self._theta: Float | None = kept.get("theta")
        self._residual: Float | None = kept.get("residual")

    @property
    def references(self) -> Mapping[str, Float]:
        """The weights that a payload may be a difference from, by version; for `message.unpack`."""
        return {} if self._theta is None else {self._version: self._theta}

    @property
    def residual_norm(self) -> float:
        """How much of its updates this device has not sent yet, as a Euclidean norm."""
        return 0.0 if self._residual is None else float(np.linalg.norm(self._residual))

    def received(self, theta: Float, version: str, lineage: str) -> None:
        """The fleet's weights are these now. What was owed under another `lineage` (run, rollback) is owed no more."""
        if lineage != self._lineage:
            self._residual = None
        self._theta, self._version, self._lineage = np.array(theta, np.float32), version, lineage

    def encode(self, theta: Float, codec: Codec) -> Bytes:
        """The payload uint8 (N,) for weights (P,) learned from those received; what it leaves out is owed from now on.

        Call `save` once the reply is made: until then a restart knows nothing of this payload.
        """
        if self._theta is None:
            raise FederationError("there are no weights of the fleet to encode a difference from")
        payload, residual = codec.encode(theta, self._theta, self._residual)
        self._residual = None if codec.lossless else residual
        return payload

    def settle(self) -> None:
        """Weights went out whole: nothing is owed."""
        self._residual = None

    def save(self) -> None:
        """Put it safely on disk; StateError when the disk refuses."""
        parts = {"theta": self._theta, "residual": self._residual}
        tensors = {name: values for name, values in parts.items() if values is not None}
        self._store.save(tensors, {"version": self._version, "lineage": self._lineage})

    def close(self) -> None:
        """Let go of the directory; may be called again."""
        self._store.close()
