"""A bench's fleet: learners with folders of their own, and rounds with all of them in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.continual.torch_runtime import TorchModel
from edgessl.device import Learner

Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, Any]


def open_learners(
    model: TorchModel, memories: Sequence[int], folder: Path, seed: int, stack: ExitStack, policy: str = "reservoir"
) -> list[Learner]:
    """A learner for each of these bounds of memory in bytes, closed with `stack`."""
    opened = []
    for i, memory in enumerate(memories):
        learner = Learner.open(model, folder / f"{i}", memory_bytes=memory, policy=policy, seed=100 * seed + i)
        opened.append(stack.enter_context(learner))
    return opened


def federate(
    model: TorchModel,
    learners: Sequence[Learner],
    steps: int,
    settings: dict[str, Any],
    *,
    before: Callable[[int, int], object] = lambda device, number: None,
    after: Callable[[int], object] = lambda device: None,
    on_round: Callable[[Row, Array], None] = lambda record, theta: None,
    **server: Any,
) -> tuple[Array, list[Row]]:
    """The last global weights (P,) and the rounds' records; `steps` training steps of every learner in each round.

    `settings` are RoundSettings', `server` make_server_app's. `before`(device, round) is called before a device answers
    a message, `after`(device) when it has.
    """
    from flwr.app import Context, Message

    from federated import RoundSettings, compat, make_server_app, run_local, train_round
    from federated.message import ROUND, config_of

    last, records = model.state()["theta"], list[Row]()

    def client(message: Message, context: Context) -> Message:
        device = int(context.node_config["partition-id"])
        before(device, config_of(message.content)[ROUND])
        reply = train_round(message, learners[device], steps)
        after(device)
        return reply

    def remember(record: Row, theta: Array) -> None:
        nonlocal last
        last = theta
        records.append(record)
        on_round(record, theta)

    chosen = RoundSettings(min_nodes=len(learners), **settings)
    app = make_server_app(last, model.digest, chosen, layout=model.manifest.parameters, on_round=remember, **server)
    with compat.quiet():
        run_local(app, client, len(learners))
    return last, records
