"""`edgessl neuro`: spiking networks, from training without labels to Loihi-class integers."""

from __future__ import annotations

import click

from edgessl.cli.group import LazyGroup, examples

COMMANDS = {
    "setup": "edgessl.cli.neuro_setup:setup",
    "train": "edgessl.cli.neuro_train:train",
    "convert": "edgessl.cli.neuro_convert:convert",
    "simulate": "edgessl.cli.neuro_simulate:simulate",
    "verify": "edgessl.cli.neuro_verify:verify",
    "energy": "edgessl.cli.neuro_energy:energy",
    "report": "edgessl.cli.neuro_report:report",
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    epilog=examples(
        "edgessl neuro train shared:nmnist_small --epochs 10",
        "edgessl neuro convert runs/nmnist_small-spiking/checkpoint.safetensors shared:nmnist_small --bits 8",
    ),
)
def neuro() -> None:
    """Train spiking networks and turn them into integers.

    Loihi-2-class integer constraints, verified against Lava 0.10.0's simulators; nothing here runs on a chip.
    """
