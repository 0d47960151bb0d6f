"""The server's side of speaking in differences: each device is sent what it lacks of the newest weights."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from federated.codecs import payload as wire
from federated.codecs.codec import Codec, decode
from federated.message import ARRAYS, CONFIG, PAYLOAD, REFERENCE, THETA, VERSION, config_of, records, version_of

Bytes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]


class Downlink:
    """Encodes each new version of the weights as a difference from the one before, once for all devices.

    A codec that loses something changes the weights: what `publish` returns is the new version, the same on the server
    and on every device however it came there, and what was lost is added to the next one (error feedback on the server:
    Tang et al., "DoubleSqueeze", ICML 2019). A device that missed versions gets several differences in a row, or the
    weights whole where those are no more bytes, where its version is not known, and after a resume or a rollback.
    `first` names the weights that every device has from its bundle; "" for none.
    """

    def __init__(self, codec: Codec, first: str = "") -> None:
        self.codec, self._first = codec, first
        self._residual: Float | None = None
        self._steps: deque[tuple[str, Bytes]] = deque(maxlen=wire.MAX_SEGMENTS)  # (version before, what leads on)
        self._newest = ""  # where the steps lead
        self._holds: dict[int, str] = {}

    def publish(self, theta: Float, current: Float) -> Float:
        """The next weights (P,) as every device will have them: theta, as what is encoded leads there from `current`.

        Another `current` than the weights last published (a resume, a rollback) begins anew.
        """
        before = version_of(current)
        if before != self._newest:
            self._steps.clear()
        payload, self._residual = self.codec.encode(theta, current, self._residual)
        published = decode(payload, len(theta), current)
        self._steps.append((before, payload))
        self._newest = version_of(published)
        return published

    def holds(self, node: int, version: str | None) -> None:
        """A node said which version it has; None: nothing is known, it failed."""
        self._holds[node] = version or ""

    def address(self, messages: list[Message]) -> None:
        """Replace theta in these messages by the differences that their nodes lack; nodes with the same share one."""
        contents: dict[tuple[int, str], RecordDict] = {}
        for message in messages:
            held = self._holds.get(message.metadata.dst_node_id, self._first)
            key = (id(message.content), held)
            if key not in contents:
                contents[key] = self._shorter(message.content, held)
            message.content = contents[key]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the residual."""
        return {} if self._residual is None else {"residual": self._residual}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self._residual = np.array(state["residual"], np.float32) if "residual" in state else None

    def _shorter(self, content: RecordDict, held: str) -> RecordDict:
        """The same message for a node that holds that version; itself where nothing shorter leads there."""
        config, arrays = config_of(content), records(content, ArrayRecord)
        if ARRAYS not in arrays:
            return content
        theta = arrays[ARRAYS][THETA]
        versions = [before for before, _ in self._steps]
        if held and held == config.get(VERSION):
            none = wire.Segment(wire.ALL, wire.FLOAT32, wire.DIFFERENCE, int(theta.shape[0]), 0, 0, 0)
            payload = np.frombuffer(wire.write_segment(none), np.uint8)
        elif held in versions and config.get(VERSION) == self._newest:
            payload = np.concatenate([step for _, step in list(self._steps)[versions.index(held) :]])
        else:
            return content
        if len(payload) >= len(theta.data):
            return content
        shorter = RecordDict(dict(content.items()))
        shorter[ARRAYS] = ArrayRecord({PAYLOAD: Array(payload)})
        shorter[CONFIG] = ConfigRecord({**config, REFERENCE: held})
        return shorter
