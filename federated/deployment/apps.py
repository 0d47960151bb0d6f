"""The apps of a real deployment, configured by run_config (the operator) and node_config (the device).

Where the bundle, the state and the stream lie is the device's business and comes from its own node_config,
so that nobody who starts a run can point a device at another file.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from edgessl.device import Bundle, Learner
from edgessl.errors import FederationError
from federated.client import Learners, catch_up, train_round
from federated.privacy.budget import GaussianPrivacy
from federated.privacy.options import central_privacy, from_options
from federated.privacy.secure.server import SecureAggregation
from federated.server import make_server_app
from federated.settings import RoundSettings
from federated.strategies import build_strategy


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
        steps, local = _setting(context.run_config, "local-steps", int), _json(context.node_config, "local-privacy")
        privacy = from_options(GaussianPrivacy, local, "local-privacy") if local else None
        only = _setting(context.node_config, "secure-only", bool, False)
        return train_round(message, learner, steps, privacy, context.state, secure_only=only)

    return app


def server_app() -> ServerApp:
    """The ServerApp.

    run_config: "bundle" and "save-to" (paths on the server); the fields of RoundSettings with hyphens; "state-dir"
    (a path on the server, "" for a run that is not resumed); "strategy", a name, with "strategy-options", and
    "client-config", what goes to the devices, both of them JSON objects; "central-privacy" and "secure-aggregation",
    JSON objects of `privacy.options`, "" for none.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = context.run_config
        bundle = Bundle.open(_setting(config, "bundle", str))
        layout = bundle.manifest.parameters
        strategy = build_strategy(_setting(config, "strategy", str), layout, _json(config, "strategy-options"))
        if central := _json(config, "central-privacy"):
            strategy = central_privacy(strategy, central)
        state = _setting(config, "state-dir", str, "")
        run = make_server_app(
            bundle.state()["theta"],
            bundle.digest,
            _round_settings(config),
            layout=layout,
            strategy=strategy,
            client_config=_json(config, "client-config"),
            secure=_secure(config),
            save_to=Path(_setting(config, "save-to", str)),
            state_dir=Path(state) if state else None,
        )
        run(grid, context)

    return app


def _round_settings(config: Mapping[str, Any]) -> RoundSettings:
    """The fields of RoundSettings from keys with hyphens; the app's own defaults are those of its pyproject.toml."""
    kinds = get_type_hints(RoundSettings)
    values: dict[str, Any] = {}
    for field in fields(RoundSettings):
        key, kind = field.name.replace("_", "-"), kinds[field.name]
        if kind is float and type(config.get(key)) is int:
            values[field.name] = float(config[key])
        else:
            values[field.name] = _setting(config, key, kind)
    return RoundSettings(**values)


def _secure(config: Mapping[str, Any]) -> SecureAggregation | None:
    key = "secure-aggregation"
    return from_options(SecureAggregation, _json(config, key), key) if _setting(config, key, str, "") else None


def _json(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    text = _setting(config, key, str, "")
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FederationError(f"{key}: expected a JSON object, found {text!r}")
    return found


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
