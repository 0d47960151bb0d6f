"""`edgessl neuro verify`: the simulators against Lava, spike for spike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgessl.cli.console import Stages, console, print_json, show_facts, show_grid
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag
from edgessl.errors import ParityError


@click.command(
    epilog=examples(
        "edgessl neuro verify coder.network spikes.npz",
        "edgessl neuro verify coder.network --steps 200 --rate 0.1",
        "edgessl neuro verify --networks 105 --rules 5 --steps 1000 --out examples/results/lava_conformance.json",
    )
)
@click.argument("network", required=False, type=click.Path(path_type=Path))
@click.argument("spikes", required=False, type=click.Path(path_type=Path))
@click.option("--networks", type=click.IntRange(1), metavar="N", help="Compare N random networks of every family.")
@click.option("--rules", type=click.IntRange(0), default=0, metavar="N",
              help="With --networks: also N networks of every local learning rule.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), default=100, show_default=True, help="Of random spikes.")
@click.option("--rate", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Of random spikes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random spikes.")
@click.option("--out", type=click.Path(path_type=Path), help="With --networks: file that keeps every network's counts.")
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds for one network.")
@json_flag
def verify(
    network: Path | None,
    spikes: Path | None,
    networks: int | None,
    rules: int,
    steps: int,
    rate: float,
    seed: int,
    out: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Compare NETWORK with Lava, spike for spike.

    Spikes, currents, voltages and learned weights, on SPIKES or random ones.

    With --networks instead of NETWORK, random networks of every family are compared, and a stopped run goes on where
    it was. Exits with 2 where a single number differs. `edgessl neuro setup` comes first.
    """
    if (network is None) == (networks is None):
        raise click.UsageError("give a network file, or --networks N")
    if networks is not None and out is None:
        raise click.UsageError("--networks needs --out FILE to keep the counts in")
    with Stages() as stages:
        stages.update("verifying")
        from neuromorphic.conformance import run_conformance
        from neuromorphic.conformance import verify as compare_with_lava
        from neuromorphic.network_file import load_network
        from neuromorphic.spike_file import random_spikes, read_spikes

        if networks is not None and out is not None:
            kept = run_conformance(
                networks, steps, out, rules=rules, timeout_s=timeout,
                progress=lambda line: stages.update("verifying", note=line),
            )  # fmt: skip
            result = {"file": str(out), **kept["summary"]}
            wrong = sum(result["mismatches"].values())
        else:
            assert network is not None
            loaded = load_network(network)
            given = read_spikes(spikes) if spikes else random_spikes(loaded, 1, steps, rate, seed)
            compared = compare_with_lava(loaded, given, timeout_s=timeout)
            one = next(iter(compared.values()))
            result = {
                "network": str(network),
                "compared": one.compared,
                "mismatches": {engine: comparison.mismatches for engine, comparison in compared.items()},
                "where": {engine: comparison.where for engine, comparison in compared.items()},
                "nonzero_spikes": one.spikes,
                "versions": one.versions,
            }
            wrong = sum(comparison.total_mismatches for comparison in compared.values())
    if as_json:
        print_json(result)
    else:
        _show(result)
    if wrong:
        raise ParityError(f"{wrong} numbers differ from Lava's; please report the network file and this output")


def _show(result: dict[str, Any]) -> None:
    show = console()
    facts = [(key, str(result[key])) for key in ("network", "file", "networks", "nonzero_spikes") if key in result]
    show_facts(show, facts)
    mismatches = result["mismatches"]
    engines = mismatches if "numpy" in mismatches else {"both simulators": mismatches}
    rows = [
        (kind, f"{n:,}", *(str(engine[kind]) for engine in engines.values())) for kind, n in result["compared"].items()
    ]
    show_grid(show, ("", "compared", *(f"differ: {name}" for name in engines)), rows)
