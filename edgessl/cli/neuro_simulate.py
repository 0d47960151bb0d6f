"""`edgessl neuro simulate`: an integer network on spikes from a file, or random ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages, console, print_json, show_facts, show_grid
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag

if TYPE_CHECKING:
    import numpy as np

    from neuromorphic.network import IntegerNetwork
    from neuromorphic.record import Record


@click.command(
    epilog=examples(
        "edgessl neuro simulate coder.network spikes.npz -o record.npz --voltages",
        "edgessl neuro simulate coder.network --steps 1000 --batch 64 --rate 0.1",
    )
)
@click.argument("network", type=click.Path(path_type=Path))
@click.argument("spikes", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write spikes (and voltages) to this .npz file.")
@click.option("--engine", type=click.Choice(["auto", "numpy", "compiled"]), default="auto", show_default=True)
@click.option("--voltages", is_flag=True, help="Record currents and voltages too.")
@click.option("--steps", type=click.IntRange(1), default=100, show_default=True, help="Of random spikes.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Lanes of random spikes.")
@click.option("--rate", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Of random spikes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random spikes.")
@json_flag
def simulate(
    network: Path,
    spikes: Path | None,
    out: Path | None,
    engine: str,
    voltages: bool,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    as_json: bool,
) -> None:
    """Run the integer NETWORK on SPIKES and count every operation.

    SPIKES is an .npz file with an array (batch, steps, channels) per input; without it, inputs fire at random.
    """
    with Stages() as stages:
        stages.update("loading")
        from neuromorphic.network_file import load_network
        from neuromorphic.simulator import make_simulator
        from neuromorphic.spike_file import random_spikes, read_spikes, write_record

        loaded = load_network(network)
        given = read_spikes(spikes) if spikes else random_spikes(loaded, batch, steps, rate, seed)
        lanes, length = next(iter(given.values())).shape[:2]
        simulator = make_simulator(loaded, lanes, engine)
        stages.update("simulating")
        started = time.perf_counter()
        record = simulator.run(given, u=voltages, v=voltages)
        seconds = time.perf_counter() - started
        if out is not None:
            write_record(record, out)
    result = {
        "network": str(network),
        "batch": lanes,
        "steps": length,
        "engine": type(simulator).__name__,
        "sample_steps_per_second": lanes * length / seconds,
        "populations": {p.name: _population(record, p.name, p.size) for p in loaded.populations},
        "connections": _connections(loaded, record),
    }
    if as_json:
        print_json(result)
    else:
        _show(result)


def _population(record: Record, name: str, size: int) -> dict[str, Any]:
    counts = record.counts
    fired = _total(counts.spikes[name])
    updates = _total(counts.driven_updates[name]) + _total(counts.idle_updates[name])
    return {
        "size": size,
        "spikes": fired,
        "rate": fired / updates,
        "driven_updates": _total(counts.driven_updates[name]),
        "idle_updates": _total(counts.idle_updates[name]),
    }


def _connections(network: IntegerNetwork, record: Record) -> dict[str, Any]:
    counts = record.counts
    found: dict[str, Any] = {}
    for c in network.connections:
        found[c.name] = {"synaptic_operations": _total(counts.synaptic_operations[c.name])}
        if c.rule is not None:
            found[c.name]["weight_changes"] = _total(counts.weight_changes[c.name])
    return found


def _total(counts: np.ndarray) -> int:
    return int(counts.sum())


def _show(result: dict[str, Any]) -> None:
    show = console()
    speed = f"{result['sample_steps_per_second']:,.0f} sample-steps/s with {result['engine']}"
    show_facts(show, [("batch", str(result["batch"])), ("steps", str(result["steps"])), ("speed", speed)])
    rows = [
        (name, str(p["size"]), f"{p['spikes']:,}", f"{p['rate']:.4f}", f"{p['driven_updates']:,}")
        for name, p in result["populations"].items()
    ]
    show_grid(show, ("population", "neurons", "spikes", "rate", "driven updates"), rows)
    columns = ("connection", "synaptic operations", "weight changes")
    links = [
        (name, f"{c['synaptic_operations']:,}", f"{c['weight_changes']:,}" if "weight_changes" in c else "")
        for name, c in result["connections"].items()
    ]
    show_grid(show, columns, links)
