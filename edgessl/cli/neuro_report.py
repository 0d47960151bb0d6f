"""`edgessl neuro report`: a page with pictures of an integer network at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgessl.cli.console import Stages, console, print_json, show_facts
from edgessl.cli.group import examples
from edgessl.cli.neuro_energy import read_inputs
from edgessl.cli.options import CommaList, count, data_options, json_flag, key_values


@click.command(
    epilog=examples(
        "edgessl neuro report coder.network shared:nmnist_small --field 17,17 --out report.html",
        "edgessl neuro report coder.network shared:qtdb_ecg_spikes --samples 8",
    )
)
@click.argument("network", type=click.Path(path_type=Path))
@click.argument("data")
@data_options
@click.option("--encoder", default="auto", show_default=True, help="How data become spikes; see edgessl neuro train.")
@key_values("--spikes", "spikes", "Option of the spike encoder, such as steps=12.")
@count("--samples", 16, "Samples of DATA, evenly spaced.")
@click.option(
    "--field", type=CommaList(int), metavar="H,W", help="Rows and columns of the input, for receptive fields."
)
@click.option("--out", type=click.Path(path_type=Path), help="HTML page, JSON beside it.  [default: beside NETWORK]")
@click.option("--engine", type=click.Choice(["auto", "numpy", "compiled"]), default="auto", show_default=True)
@json_flag
def report(
    network: Path,
    data: str,
    data_options: dict[str, Any],
    encoder: str,
    spikes: dict[str, Any],
    samples: int,
    field: list[int] | None,
    out: Path | None,
    engine: str,
    as_json: bool,
) -> None:
    """Draw NETWORK at work on DATA.

    Raster, membranes, prediction error, receptive fields and energy, on one page.
    """
    out = out or network.with_suffix(".html")
    if field is not None and len(field) != 2:
        raise click.BadParameter(f"{field}; expected rows and columns, such as 28,28", param_hint="'--field'")
    with Stages() as stages:
        stages.update("loading")
        from neuromorphic.network_file import load_network
        from neuromorphic.pictures import spiking_report, write_report

        loaded = load_network(network)
        given = read_inputs(loaded, data, data_options, encoder, spikes, samples)
        stages.update("simulating and drawing")
        shape = None if field is None else (field[0], field[1])
        found = spiking_report(
            loaded, given[loaded.inputs[0].name], name=f"{network.stem} on {data}", field=shape, engine=engine
        )
        write_report(found, out)
    if as_json:
        print_json({"report": str(out), **{key: value for key, value in found.items() if key != "pictures"}})
    else:
        show_facts(console(), [("written", f"{out}, {out.with_suffix('.json').name} beside it")])
