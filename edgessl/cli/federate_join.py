"""`edgessl federate join`: one device of a federation, in one process.

No rich, no torch and only Flower's message classes are imported here: a device has no memory for more.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.group import examples
from edgessl.cli.options import ByteSize, count

if TYPE_CHECKING:
    from federated.node.gates import Gate

_FILE = click.Path(path_type=Path)


@click.command(
    epilog=examples(
        "edgessl federate join model.edgessl --server fleet.example.org:443 --ca ca.crt --key device.key --state state",
        "edgessl federate join model.edgessl --server 127.0.0.1:9092 --insecure --state state --battery 50",
    )
)
@click.argument("bundle", type=_FILE)
@click.option("--server", required=True, metavar="HOST:PORT", help="The fleet API.")
@click.option("--state", required=True, type=_FILE, help="Folder of all that must survive a restart.")
@click.option("--ca", type=_FILE, help="PEM file of the certificates to trust; needed without --insecure.")
@click.option("--key", type=_FILE, help="This device's private key, from edgessl federate keys.")
@click.option("--insecure", is_flag=True, help="Plain HTTP, no key: on a loopback or a closed test network.")
@click.option("--stream", type=_FILE, help="File of float32 samples (.npy), observed as far as it is new.")
@count("--local-steps", 16, "Training steps of a round.")
@click.option("--memory", type=ByteSize(), default="4MiB", help="Bound of the replay memory.  [default: 4MiB]")
@click.option("--max-message", type=ByteSize(), default="256MiB", help="Largest message taken.  [default: the model's]")
@click.option(
    "--heartbeat", type=float, default=30.0, metavar="S", help="Seconds between signs of life at work.  [default: 30]"
)
@click.option("--poll", type=float, nargs=2, default=(1.0, 60.0), help="Least and most seconds between two looks.")
@click.option("--window", metavar="HH:MM-HH:MM", help="Speak between these local times only.")
@click.option("--battery", type=click.IntRange(1, 100), metavar="N", help="Speak on mains or above N % only.")
@click.option("--not-over", multiple=True, metavar="PATTERN", help="Not over interfaces named like this. Repeatable.")
@click.option("--gate", "commands", multiple=True, metavar="CMD", help="Speak while CMD exits with 0. Repeatable.")
@click.option("--trust", "trusted", multiple=True, type=_FILE, help="Public key that signed BUNDLE. Repeatable.")
@click.option("--device-key", type=_FILE, help="Secret that the learned state is authenticated with.")
@count("--seed", 0, "Of this device's draws.", least=0)
@click.option(
    "--privacy",
    type=float,
    nargs=4,
    metavar="NOISE CLIP DELTA EPSILON",
    help="Noise of this device's own (local differential privacy), and how much epsilon it may spend.",
)
@click.option("--secure-only", is_flag=True, help="Take part only in rounds with secure aggregation.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines on stdout.")
def join(
    bundle: Path,
    server: str,
    state: Path,
    ca: Path | None,
    key: Path | None,
    insecure: bool,
    stream: Path | None,
    local_steps: int,
    memory: int,
    max_message: int,
    heartbeat: float,
    poll: tuple[float, float],
    window: str | None,
    battery: int | None,
    not_over: tuple[str, ...],
    commands: tuple[str, ...],
    trusted: tuple[Path, ...],
    device_key: Path | None,
    seed: int,
    privacy: tuple[float, float, float, float] | None,
    secure_only: bool,
    as_json: bool,
) -> None:
    """Be a device of a fleet.

    It takes the fleet's weights, learns on its own memory, sends one vector back, and runs until it is stopped. Only
    BUNDLE's graphs run here, never code from the server. State, a message being answered and a reply not delivered yet
    lie in --state and survive a power cut; a server that is away is asked for again, less and less often. Exit code 2:
    the server does not know this device's key, or a file is wrong.
    """
    if insecure == (ca is not None) or (not insecure and key is None):
        raise click.UsageError("give --ca and --key, or --insecure alone")
    from federated.compat.lean import use_lean_flower

    use_lean_flower()
    from edgessl.device import Bundle, Learner, SessionProfile, Trust, read_public_key
    from federated.node import NodeSettings
    from federated.node.device import Device
    from federated.node.device import join as join_federation
    from federated.privacy.budget import GaussianPrivacy

    settings = NodeSettings(heartbeat=heartbeat, poll=poll, max_bytes=max_message)
    gates = _gates(window, battery, not_over, commands)
    local = None if privacy is None else GaussianPrivacy(*privacy)
    device = Device(server, state, key, ca, stream, local_steps, gates, local, secure_only)
    trust = Trust(tuple(read_public_key(path) for path in trusted)) if trusted else None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    opened = Bundle.open(bundle, trust)
    lean = SessionProfile(arena=False)  # between rounds, the memory of a step is the system's
    with Learner.open(opened, state, memory_bytes=memory, seed=seed, profile=lean, device_key=device_key) as learner:
        join_federation(device, learner, settings, stop, lambda event: _print(event, as_json))


def _gates(window: str | None, battery: int | None, not_over: tuple[str, ...], commands: tuple[str, ...]) -> list[Gate]:
    from federated.node.gates import Battery, Command, Interfaces, TimeWindow

    gates: list[Gate] = []
    if window is not None:
        gates.append(TimeWindow.parse(window))
    if battery is not None:
        gates.append(Battery(battery))
    if not_over:
        gates.append(Interfaces(not_over))
    return gates + [Command(tuple(shlex.split(command))) for command in commands]


def _print(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"time": round(time.time(), 3), **event}))
    else:
        rest = "  ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        click.echo(f"{event['event']:<10} {rest}", err=True)
    (sys.stdout if as_json else sys.stderr).flush()
