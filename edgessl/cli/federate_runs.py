"""What `serve` and `run` share: the options of a run, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgessl.cli.options import count, key_values

if TYPE_CHECKING:
    from federated import FederationResult
    from federated.deployment.superlink import Operator

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def run_options(command: Decorated) -> Decorated:
    """The options of a run, which become `run_config`'s arguments."""
    for decorate in reversed(
        (
            click.option("--name", default="run", show_default=True, help="Folder of the run, in the server's."),
            count("--rounds", 10, "Rounds in all, those before an interruption included."),
            count("--min-nodes", 2, "Devices that must be there before a round begins."),
            count("--min-replies", 1, "Good replies without which a round fails."),
            click.option("--fraction", type=float, default=1.0, show_default=True, help="Share of the devices asked."),
            click.option("--over-selection", type=float, default=1.0, show_default=True, help="Asked per reply."),
            click.option("--round-timeout", type=float, default=600.0, show_default=True, help="Seconds of a round."),
            click.option("--remind-after", type=float, default=120.0, show_default=True, help="Seconds to a reminder."),
            click.option("--node-timeout", type=float, default=300.0, show_default=True, help="Seconds for devices."),
            count("--cool-down", 0, "Rounds without a device that failed.", least=0),
            count("--local-steps", 16, "Steps of a stock SuperNode; a lean node has its own."),
            click.option("--strategy", default="fedavg", show_default=True, help="Of federated.strategies."),
            key_values("--option", "options", "Option of the strategy."),
            click.option("--codec", default="whole", show_default=True, help="How devices send what they learned."),
            click.option("--downlink", default="whole", show_default=True, help="How new weights go to devices."),
            click.option("--secure", is_flag=True, help="Secure aggregation: no single update can be seen."),
            key_values("--secure-option", "secure_options", "Option of it: bound, neighbours, survivors."),
            key_values("--central", "central", "Central privacy: noise_multiplier, clipping_norm, delta ..."),
            key_values("--client", "client", "What devices are told, such as rule=fedema."),
            count("--seed", 0, "Of the choice of devices.", least=0),
        )
    ):
        command = decorate(command)
    return command


def start_run(operator: Operator, bundle: Path, given: dict[str, Any]) -> int:
    """Submit the run that the options describe; its number."""
    from edgessl.device import Bundle

    Bundle.open(bundle)
    folder = operator.server.folder / given["name"]
    config = {
        "bundle": str(bundle.resolve()),
        "save-to": str(folder / "theta.safetensors"),
        "state-dir": str(folder / "state"),
        "rounds": given["rounds"],
        "min-nodes": given["min_nodes"],
        "min-replies": given["min_replies"],
        "fraction-train": float(given["fraction"]),
        "over-selection": float(given["over_selection"]),
        "round-timeout": float(given["round_timeout"]),
        "remind-after": float(given["remind_after"]),
        "node-timeout": float(given["node_timeout"]),
        "cool-down": given["cool_down"],
        "local-steps": given["local_steps"],
        "strategy": given["strategy"],
        "strategy-options": json.dumps(given["options"]),
        "client-config": json.dumps(given["client"]),
        "seed": given["seed"],
        "codec": given["codec"],
        "downlink": given["downlink"],
        "secure-aggregation": json.dumps(given["secure_options"]) if given["secure"] else "",
        "central-privacy": json.dumps(given["central"]) if given["central"] else "",
    }
    return operator.submit(given["name"], config)


def result_of(operator: Operator, bundle: Path, name: str) -> FederationResult:
    """What a run that has completed left in its folder."""
    from edgessl.device import Bundle
    from federated import FederationResult

    return FederationResult.load(operator.server.folder / name / "theta.safetensors", Bundle.open(bundle).digest)
