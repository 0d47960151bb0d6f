"""The server's side of speaking in differences: each device is sent what it lacks of the newest weights."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from federated.codecs.codec import Codec, decode
from federated.codecs.payload import MAX_SEGMENTS
from federated.message import ARRAYS, CONFIG, PAYLOAD, REFERENCE, records, version_of

Bytes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]


class Downlink:
    """Encodes each new version of the weights as a difference from the one before, once for all devices.

    A codec that loses something changes the weights: what `publish` returns is the new version, the same on the server
    and on every device however it came there, and what was lost is added to the next one (error feedback on the server:
    Tang et al., "DoubleSqueeze", ICML 2019). A device that missed versions gets several differences in a row, or the
    weights whole where those are no more bytes.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._theta: Float | None = None
        self._version = ""
        self._residual: Float | None = None
        self._steps: deque[tuple[str, Bytes]] = deque(maxlen=MAX_SEGMENTS)  # (version before, difference), oldest first
        self._holds: dict[int, str] = {}

    def publish(self, theta: Float) -> Float:
        """The weights (P,) as every device will have them, for those that the strategy made; the first as they are."""
        if self._theta is None:
            self.restart(theta)
            return np.array(theta, np.float32)
        payload, self._residual = self.codec.encode(theta, self._theta, self._residual)
        self._steps.append((self._version, payload))
        self._theta = decode(payload, len(theta), self._theta)
        self._version = version_of(self._theta)
        return self._theta

    def restart(self, theta: Float) -> None:
        """Go on from these weights (P,), as after a rollback or a resume; devices get them whole."""
        self._theta, self._residual = np.array(theta, np.float32), None
        self._version = version_of(self._theta)
        self._steps.clear()

    def holds(self, node: int, version: str | None) -> None:
        """A node said which version it has; None: nothing is known, it failed."""
        if version is None:
            self._holds.pop(node, None)
        else:
            self._holds[node] = version

    def address(self, messages: list[Message]) -> None:
        """Replace theta in these messages by the differences that their nodes lack; nodes with the same share one."""
        contents: dict[tuple[int, str], RecordDict] = {}
        for message in messages:
            held = self._holds.get(message.metadata.dst_node_id, "")
            payload = self._difference(held)
            if payload is None:
                continue
            key = (id(message.content), held)
            if key not in contents:
                config = records(message.content, ConfigRecord)[CONFIG]
                contents[key] = RecordDict(
                    {
                        ARRAYS: ArrayRecord({PAYLOAD: Array(payload)}),
                        CONFIG: ConfigRecord({**config, REFERENCE: held}),
                    }
                )
            message.content = contents[key]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the residual. Devices get the weights whole after a resume."""
        return {} if self._residual is None else {"residual": self._residual}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave; `restart` comes first."""
        self._residual = np.array(state["residual"], np.float32) if "residual" in state else None

    def _difference(self, held: str) -> Bytes | None:
        """What leads from the version `held` to the newest; None where the weights whole are no more bytes."""
        if self._theta is None:
            return None
        if held == self._version:
            return self.codec.encode(self._theta, self._theta)[0]  # nothing changed: a header
        versions = [before for before, _ in self._steps]
        if held not in versions:
            return None
        payload = np.concatenate([step for _, step in list(self._steps)[versions.index(held) :]])
        return payload if len(payload) < self._theta.nbytes else None
