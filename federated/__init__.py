"""Federations of learners through Flower: weights travel, data stays.

Names load on first use: importing flwr takes about a second.
"""

from typing import TYPE_CHECKING

from edgessl import on_first_use

if TYPE_CHECKING:
    from federated.client import Learners, catch_up, make_client_app, train_round
    from federated.deployment.loopback import run_loopback
    from federated.message import Update, pack, unpack
    from federated.result import FederationResult
    from federated.server import make_server_app
    from federated.settings import RoundSettings
    from federated.simulation import Device, Fleet, LocalGrid, VirtualGrid, federate_in_process, run_local
    from federated.strategies import StreamingFedAvg, build_strategy

_HOME = {
    "Device": "simulation",
    "FederationResult": "result",
    "Fleet": "simulation",
    "Learners": "client",
    "LocalGrid": "simulation",
    "RoundSettings": "settings",
    "StreamingFedAvg": "strategies",
    "Update": "message",
    "VirtualGrid": "simulation",
    "build_strategy": "strategies",
    "catch_up": "client",
    "federate_in_process": "simulation",
    "make_client_app": "client",
    "make_server_app": "server",
    "pack": "message",
    "run_local": "simulation",
    "run_loopback": "deployment.loopback",
    "train_round": "client",
    "unpack": "message",
}
__all__ = [
    "Device",
    "FederationResult",
    "Fleet",
    "Learners",
    "LocalGrid",
    "RoundSettings",
    "StreamingFedAvg",
    "Update",
    "VirtualGrid",
    "build_strategy",
    "catch_up",
    "federate_in_process",
    "make_client_app",
    "make_server_app",
    "pack",
    "run_local",
    "run_loopback",
    "train_round",
    "unpack",
]


__getattr__ = on_first_use(__name__, _HOME)
