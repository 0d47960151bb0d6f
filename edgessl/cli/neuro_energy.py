"""`edgessl neuro energy`: what an integer network does and what that would cost, by published tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages, console, print_json, show_facts, show_grid
from edgessl.cli.group import examples
from edgessl.cli.options import CommaList, count, data_options, json_flag, key_values

if TYPE_CHECKING:
    import numpy as np

    from neuromorphic.energy import Ledger
    from neuromorphic.prices import Priced

ALL = ("loihi1-2018-presilicon", "horowitz-45nm-int8", "horowitz-45nm-fp32")


@click.command(
    epilog=examples(
        "edgessl neuro energy coder.network shared:nmnist_small --samples 100",
        "edgessl neuro energy coder.network digits --table horowitz-45nm-int8 --leave-out host_write,host_read",
        "edgessl neuro energy coder.network spikes.npz --factor 3 --json",
    )
)
@click.argument("network", type=click.Path(path_type=Path))
@click.argument("data")
@data_options
@click.option("--encoder", default="auto", show_default=True, help="How data become spikes; see edgessl neuro train.")
@key_values("--spikes", "spikes", "Option of the spike encoder, such as steps=12.")
@count("--samples", 100, "Samples of DATA, evenly spaced.")
@click.option(
    "--table", "tables", type=click.Choice(ALL), multiple=True, help="Price tables.  [default: all] Repeatable."
)
@click.option("--leave-out", type=CommaList(), metavar="A,B", default="host_write,host_read", show_default=True,
              help="Terms to leave out of totals by name; '-' for none.")  # fmt: skip
@click.option("--factor", type=click.FloatRange(1), default=2.0, show_default=True, help="Of the sensitivity bands.")
@click.option("--engine", type=click.Choice(["auto", "numpy", "compiled"]), default="auto", show_default=True)
@count("--passes", 1, "How often the dense twin runs per sample; the number of steps where it must follow time.")
@json_flag
def energy(
    network: Path,
    data: str,
    data_options: dict[str, Any],
    encoder: str,
    spikes: dict[str, Any],
    samples: int,
    tables: tuple[str, ...],
    leave_out: list[str],
    factor: float,
    engine: str,
    passes: int,
    as_json: bool,
) -> None:
    """Count and price NETWORK's operations beside a dense int8 twin.

    DATA is as in `edgessl neuro train`, or an .npz file with an array (batch, steps, channels) per input. Counts are
    exact. Prices carry their source, process and grade; what a table does not know is refused, not zero: a total is
    given only when every term that occurred is priced or left out by name. No figure here is Loihi 2's energy.
    """
    with Stages() as stages:
        stages.update("loading")
        from neuromorphic.energy import dense_twin, ledger, neurobench
        from neuromorphic.network_file import load_network
        from neuromorphic.prices import price, sensitivity, table
        from neuromorphic.simulator import make_simulator

        loaded = load_network(network)
        given = read_inputs(loaded, data, data_options, encoder, spikes, samples)
        stages.update("simulating")
        record = make_simulator(loaded, len(next(iter(given.values()))), engine).run(given, v=True)
        counted = ledger(loaded, record)
        twin = dense_twin(loaded, counted.samples, passes=passes)
        rows: list[Priced] = []
        swings: dict[str, Any] = {}
        for name in tables or ALL:
            for subject in (counted, twin):
                prices = table(name, subject.memory_bytes)
                occurring = [t for t in leave_out if subject.counts.get(t) and t not in prices.ignores]
                row = price(subject, prices, occurring)
                if subject is twin and name == ALL[0]:
                    continue  # a chip without dense layers
                rows.append(row)
                if not row.unknown:
                    swings[f"{subject.subject}, {name}"] = sensitivity(subject, prices, occurring, factor)
        metrics = neurobench(loaded, record)
    if as_json:
        print_json(
            {
                "network": str(network),
                "samples": counted.samples,
                "steps": counted.steps,
                "ledgers": [counted.to_json(), twin.to_json()],
                "priced": [row.to_json() for row in rows],
                "sensitivity": {"factor": factor, "joules_per_sample": swings},
                "neurobench": metrics,
            }
        )
        return
    _show(counted, twin, rows, swings, factor, metrics)


def read_inputs(
    network: Any, data: str, reader: dict[str, Any], encoder: str, options: dict[str, Any], samples: int
) -> dict[str, np.ndarray]:
    """Spikes for a network: from an .npz file with an array per input, or DATA encoded for its first input."""
    import numpy as np

    from edgessl.errors import ConfigError
    from neuromorphic.plastic import with_silent
    from neuromorphic.spike_data import open_spikes
    from neuromorphic.spike_file import read_spikes

    if data.endswith(".npz") and encoder == "auto" and Path(data).exists():
        found = read_spikes(Path(data))
        if set(found) == {i.name for i in network.inputs}:
            return {name: array[:samples] for name, array in found.items()}
    source = open_spikes(data, encoder, options, **reader)
    if source.shape[1] != network.inputs[0].size:
        raise ConfigError(f"{data} gives {source.shape[1]} channels, {network.inputs[0].name!r} takes"
                          f" {network.inputs[0].size}; give the data it was made for")  # fmt: skip
    n = len(source)
    chosen = source.take(np.unique(np.linspace(0, n - 1, min(n, samples)).round().astype(np.int64)))
    return with_silent(network, chosen)


def _show(
    counted: Ledger, twin: Ledger, rows: list[Priced], swings: dict[str, Any], factor: float, metrics: dict[str, Any]
) -> None:
    show = console()
    columns = ("per sample", counted.subject, twin.subject)
    terms = list(dict.fromkeys([*counted.counts, *twin.counts]))
    show_grid(show, columns, [(t, f"{counted.per_sample(t):,.1f}", f"{twin.per_sample(t):,.1f}") for t in terms])
    table_rows = []
    for row in rows:
        total = f"{row.total * 1e9:,.3f}" if not row.unknown else "refused"
        band = (
            " - ".join(f"{v * 1e9:,.3f}" for v in row.band)
            if not row.unknown
            else f"no price: {', '.join(row.unknown)}"
        )
        swing = swings.get(f"{row.ledger.subject}, {row.table.name}", {})
        worst = next(iter(swing.items()), None)
        said = "" if worst is None else f"{worst[0]}: {worst[1][0] * 1e9:,.3f} - {worst[1][1] * 1e9:,.3f}"
        table_rows.append((row.ledger.subject, row.table.name, row.table.grade, total, band, said))
    heads = ("what", "table", "grade", "nJ / sample", "band", f"widest at x{factor:g}")
    show_grid(show, heads, table_rows, left=heads[1:3])
    facts = [(row.table.name, f"{row.table.says}; {row.table.source}") for row in rows]
    show_facts(show, list(dict.fromkeys(facts)))
    left = {", ".join(row.left_out) for row in rows if row.left_out}
    show_facts(show, [("left out", "; ".join(sorted(left)) or "nothing")])
    operations = metrics["SynapticOperations"]
    flat = {**{k: v for k, v in metrics.items() if k != "SynapticOperations"}, **operations}
    show_facts(show, [("NeuroBench", ", ".join(f"{k} {v:,.6g}" for k, v in flat.items() if v is not None))])
