"""The small real bundle of the device tests, messages, a node and its server in memory."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import linear_bundle
import numpy as np
import pytest
from fake_node import make_node
from fake_superlink import FakeSuperLink
from flwr.app import Context, Message, MessageType

from edgessl.device import Bundle, pack
from federated import compat
from federated import message as wire
from federated.node import Node

DIGEST = "ab" * 32
Client = Callable[[Message, Context], Message]


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "linear.edgessl"
    pack(path, linear_bundle.build_manifest(), linear_bundle.build_members())
    return path


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


@pytest.fixture(scope="session")
def samples() -> Callable[..., np.ndarray]:
    """samples(n, seed, shift): float32 (n, 1, 4, 4)."""
    return linear_bundle.make_samples


@pytest.fixture
def server() -> FakeSuperLink:
    return FakeSuperLink()


@pytest.fixture
def make(server: FakeSuperLink, tmp_path: Path) -> Callable[..., Node]:
    """make(answer, **settings): a node of `server` whose disk is the test's folder."""
    return lambda *given, **settings: make_node(server, tmp_path / "letters", *given, **settings)


@pytest.fixture
def identity() -> Iterator[None]:
    with compat.local_identity():
        yield


@pytest.fixture
def reply_to(identity: None) -> Callable[..., Message]:
    """reply_to(theta, examples, loss=...): what a client would answer in round 1."""

    def make(theta: np.ndarray, examples: int, **metrics: float) -> Message:
        question = Message(wire.pack(theta, bundle_digest=DIGEST, round_number=1), 100, MessageType.TRAIN)
        compat.stamp(question)
        numbers = {"num-examples": examples, **metrics}
        return Message(wire.pack(theta, bundle_digest=DIGEST, round_number=1, metrics=numbers), reply_to=question)

    return make


def adding(steps: Mapping[int, tuple[float, int]], size: int) -> Client:
    """A client whose node i adds steps[i][0] to the weights and claims steps[i][1] examples."""

    def client(message: Message, context: Context) -> Message:
        update = wire.unpack(message.content, bundle_digest=DIGEST, size=size)
        step, examples = steps[int(context.node_config["partition-id"])]
        metrics = {"num-examples": examples, "loss": step}
        theta = update.theta + np.float32(step)
        content = wire.pack(theta, bundle_digest=DIGEST, round_number=update.round, metrics=metrics)
        return Message(content, reply_to=message)

    return client


@pytest.fixture(scope="session")
def adding_client() -> Callable[..., Client]:
    return adding


@pytest.fixture(scope="session")
def digest() -> str:
    return DIGEST
