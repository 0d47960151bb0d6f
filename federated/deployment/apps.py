"""The apps of a real deployment, configured by run_config (the operator) and node_config (the device).

Where the bundle, the state and the stream lie is the device's business and comes from its own node_config,
so that nobody who starts a run can point a device at another file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from edgessl.device import Bundle, Learner
from edgessl.errors import FederationError
from federated.client import Learners, catch_up, train_round
from federated.server import make_server_app
from federated.settings import RoundSettings


def client_app() -> ClientApp:
    """The ClientApp of a device.

    node_config: "bundle" and "state-dir" (paths); "stream" (a .npy file of float32 samples, observed before
    learning as far as it is new), "memory-bytes" and "seed" may be left out. run_config: "local-steps".
    """
    app, learners = ClientApp(), Learners(_open_learner)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        learner = learners(context)
        if stream := _setting(context.node_config, "stream", str, ""):
            catch_up(learner, np.load(stream, mmap_mode="r", allow_pickle=False))
        return train_round(message, learner, _setting(context.run_config, "local-steps", int))

    return app


def server_app() -> ServerApp:
    """The ServerApp.

    run_config: "bundle" and "save-to" (paths on the server), "rounds", "fraction-train", "min-nodes",
    "round-timeout" (seconds), "seed".
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = context.run_config
        bundle = Bundle.open(_setting(config, "bundle", str))
        run = make_server_app(
            bundle.state()["theta"],
            bundle.digest,
            RoundSettings(
                rounds=_setting(config, "rounds", int),
                fraction_train=float(_setting(config, "fraction-train", float)),
                min_nodes=_setting(config, "min-nodes", int),
                round_timeout=float(_setting(config, "round-timeout", float)),
                seed=_setting(config, "seed", int),
            ),
            layout=bundle.manifest.parameters,
            save_to=Path(_setting(config, "save-to", str)),
        )
        run(grid, context)

    return app


def _open_learner(context: Context) -> Learner:
    config = context.node_config
    return Learner.open(
        _setting(config, "bundle", str),
        _setting(config, "state-dir", str),
        memory_bytes=_setting(config, "memory-bytes", int, 4 << 20),
        seed=_setting(config, "seed", int, 0),
    )


def _setting(config: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = config.get(key, default)
    if not isinstance(value, kind) or (value == "" and default is None):
        raise FederationError(f"{key}: set it to a {kind.__name__} in the run's or node's config, found {value!r}")
    return value
