"""A device of a federation on the command line: a learner, the file its samples are appended to, and a node."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from flwr.app import Message, RecordDict

from edgessl.device import Learner
from federated.client import catch_up, train_round
from federated.node.footprint import give_back
from federated.node.gates import Gate
from federated.node.identity import Identity
from federated.node.letters import Letters
from federated.node.link import Link, trust
from federated.node.node import Events, Node
from federated.node.settings import NodeSettings, message_bytes
from federated.privacy.budget import GaussianPrivacy


@dataclass(frozen=True)
class Device:
    """What `join` needs to know about a device.

    Attributes:
        server: "host:port" of the fleet API.
        state: folder of everything that must survive; the learner's, with the letters in `letters` below it.
        key: the device's private key file; without one it is made in `state`, for servers that ask for none.
        ca: PEM file of the certificates to trust; None for plain HTTP.
        stream: a .npy file of float32 samples (N, *shape), observed before each round as far as it is new.
        local_steps: training steps of a round.
        privacy: noise that this device adds to what it sends, and its budget; None for none.
        secure_only: take part only in rounds with secure aggregation.
    """

    server: str
    state: Path
    key: Path | None = None
    ca: Path | None = None
    stream: Path | None = None
    local_steps: int = 16
    gates: Sequence[Gate] = field(default=())
    privacy: GaussianPrivacy | None = None
    secure_only: bool = False


def join(device: Device, learner: Learner, settings: NodeSettings, stop: threading.Event, on_event: Events) -> None:
    """Be a node of the federation until `stop` is set.

    The bound of a message's bytes in `settings` is lowered to what the learner's weights can take. Raises
    RefusedError when the server does not know the key, ConfigError for files that are not what they should be.
    """
    identity = _identity(device)
    vault = RecordDict()  # secrets of a secure round; gone with the process, which has then dropped out of the round
    largest = min(settings.max_bytes, message_bytes(learner.bundle.manifest.theta_size))

    def answer(message: Message) -> Message:
        try:
            if device.stream is not None:
                catch_up(learner, np.load(device.stream, mmap_mode="r", allow_pickle=False))
            only = device.secure_only
            return train_round(message, learner, device.local_steps, device.privacy, vault, secure_only=only)
        finally:
            give_back()

    with ExitStack() as stack:
        link = Link(device.server, identity, None if device.ca is None else trust(device.ca))
        stack.callback(link.close)
        letters = Letters(device.state / "letters")
        node = Node(link, letters, answer, replace(settings, max_bytes=largest), gates=device.gates, on_event=on_event)
        give_back()
        node.run(stop)


def _identity(device: Device) -> Identity:
    if device.key is not None:
        return Identity.read(device.key)
    own = device.state / "node.key"
    return Identity.read(own) if own.exists() else Identity.create(own)
