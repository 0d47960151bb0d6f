"""A node without a network: what it answers is counted, what it tells is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_superlink import FakeSuperLink, records
from flwr.app import Message

from federated.node import Gate, Letters, Node, NodeSettings
from federated.node.node import Answer

THETA = np.arange(6, dtype=np.float32)


class Counting:
    """An `answer` that adds one to theta and counts how often it was asked."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.asked, self.fail = 0, fail

    def __call__(self, found: Message) -> Message:
        self.asked += 1
        if self.fail is not None:
            raise self.fail
        theta = found.content["arrays"]["theta"].numpy()
        return Message(records(theta + 1, round=found.content["config"]["round"]), reply_to=found)


def make_node(
    server: FakeSuperLink, folder: Path, answer: Answer | None = None, gates: Sequence[Gate] = (), **given: Any
) -> Node:
    """A node that has not spoken yet, its letters in `folder`; `told` has its events."""
    quick = NodeSettings(poll=(0.01, 0.04), away=0.04, **given)
    heard: list[dict[str, Any]] = []
    node = Node(server, Letters(folder), answer or Counting(), quick, gates=gates, on_event=heard.append)
    node.told = heard
    return node


def told(node: Node, event: str) -> list[dict[str, Any]]:
    """The events of that name."""
    return [e for e in node.told if e["event"] == event]
