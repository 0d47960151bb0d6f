"""Runs of a ServerApp and its clients in this process."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from edgessl.device import Bundle, Learner
from edgessl.errors import FederationError
from federated import compat
from federated.checkpoint import ServerStore
from federated.client import Learners, catch_up, make_client_app
from federated.codecs.link import WHOLE
from federated.result import FederationResult
from federated.server import OnRound, make_server_app
from federated.settings import RoundSettings
from federated.simulation.clock import VirtualGrid
from federated.simulation.fleet import Fleet
from federated.simulation.grid import Client, Drop, LocalGrid


def run_local(
    server_app: ServerApp,
    client: Client,
    num_nodes: int,
    run_config: Mapping[str, Any] | None = None,
    *,
    drop: Drop | None = None,
    fleet: Fleet | None = None,
) -> LocalGrid:
    """Run a federation to its end; returns the grid for its byte counts. What the ServerApp raises comes out.

    `client`: a ClientApp, or a function of (message, context). `fleet`: models of `num_nodes` devices, which then take
    virtual time on a VirtualGrid; who answers is their business, and `drop` cannot be given too.
    """
    if fleet is None:
        grid = LocalGrid(client, num_nodes, run_config, drop)
    elif drop is not None or len(fleet.devices) != num_nodes:
        raise FederationError(
            f"fleet: {len(fleet.devices)} devices for {num_nodes} nodes; give one each, and dropout in place of drop"
        )
    else:
        grid = VirtualGrid(client, fleet, run_config)
    with compat.local_identity():
        server_app(grid, Context(1, compat.SERVER_NODE_ID, {}, RecordDict(), dict(grid.run_config)))
    return grid


def federate_in_process(
    bundle: Bundle,
    streams: Sequence[npt.NDArray[np.float32]],
    *,
    rounds: int,
    local_steps: int,
    workdir: Path,
    seed: int = 0,
    memory_bytes: int = 4 << 20,
    on_round: OnRound | None = None,
    fleet: Fleet | None = None,
    codec: str = WHOLE,
    downlink: str = WHOLE,
) -> FederationResult:
    """Federate one real Learner per stream (N, *shape), each with a state directory in `workdir`.

    Learner i has the seed `seed` + i and observes its stream first; then `rounds` rounds of `local_steps` steps
    follow, all clients in each. `workdir`/state has the round log and the last versions, as a server's state
    directory does; a `workdir` used before is resumed, and `rounds` counts those before. The same arguments and a
    fresh `workdir` give the same theta bit for bit. The final theta is returned, not adopted: the learners keep what
    their own last round left. With a `fleet` (one device per stream) the records' seconds are virtual. `codec`,
    `downlink`: of RoundSettings.
    """
    state = workdir / "state"

    def open_learner(context: Context) -> Learner:
        i = int(context.node_config["partition-id"])
        learner = Learner.open(bundle, workdir / f"client-{i}", memory_bytes=memory_bytes, seed=seed + i)
        try:
            catch_up(learner, streams[i])
        except BaseException:
            learner.close()
            raise
        return learner

    settings = RoundSettings(rounds, min_nodes=len(streams), seed=seed, codec=codec, downlink=downlink)
    layout, theta = bundle.manifest.parameters, bundle.state()["theta"]
    server = make_server_app(theta, bundle.digest, settings, layout=layout, on_round=on_round, state_dir=state)
    with ExitStack() as stack:
        stack.enter_context(compat.quiet())
        learners = stack.enter_context(Learners(open_learner))
        run_local(server, make_client_app(learners, local_steps=local_steps), len(streams), fleet=fleet)
    with ServerStore(state, bundle.digest) as store:
        head = store.load()
        assert head is not None
        history = store.rounds(head)
    return FederationResult(head.theta, history, sum(record["seconds"] for record in history))
