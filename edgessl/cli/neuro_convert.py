"""`edgessl neuro convert`: a spiking checkpoint becomes an integer network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import Stages, console, print_json, show_facts, show_grid, size
from edgessl.cli.group import examples
from edgessl.cli.options import count, data_options, json_flag

if TYPE_CHECKING:
    from rich.console import Console

    from neuromorphic.convert import LayerMatch, LayerScale


@click.command(
    epilog=examples(
        "edgessl neuro convert runs/digits-spiking/checkpoint.safetensors digits",
        "edgessl neuro convert checkpoint.safetensors shared:nmnist_small --bits 4 -o coder4.network",
        "edgessl neuro convert checkpoint.safetensors shared:nmnist_small --verify lava --samples 4",
    )
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("data")
@data_options
@click.option(
    "--bits", type=click.IntRange(2, 8), help="Bits of the weights.  [default: those it was trained at, or 8]"
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Network file.  [default: beside the checkpoint]")
@click.option(
    "--verify",
    type=click.Choice(["simulator", "lava"]),
    default="simulator",
    show_default=True,
    help="What runs the integers for the comparison.",
)
@count("--samples", 64, "Samples of DATA to compare on.")
@json_flag
def convert(
    checkpoint: Path,
    data: str,
    data_options: dict[str, Any],
    bits: int | None,
    out: Path | None,
    verify: str,
    samples: int,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT into integers, compared on DATA spike for spike.

    Prints every scale factor and, per layer, how many spikes differ from the float network (the price of rounding) and
    from the coder's own integer arithmetic. The latter has to be 0, or nothing is written. --verify lava runs the
    integers in Lava itself (edgessl neuro setup makes its environment), one sample after another: keep --samples small.
    """
    with Stages() as stages:
        stages.update("loading")
        from edgessl.errors import ParityError
        from neuromorphic import convert as library  # torch, from here on
        from neuromorphic.checkpoint import SpikingCheckpoint
        from neuromorphic.network_file import save_network

        saved = SpikingCheckpoint.load(checkpoint)
        bits = bits or saved.bits or 8
        out = out or checkpoint.with_name(f"{checkpoint.stem}-{bits}bit.network")
        spikes = _spikes(saved, data, data_options, samples)
        stages.update("converting")
        conversion = library.convert(saved.coder(), bits)
        stages.update(f"comparing with {verify}")
        run = library.simulate_in_lava if verify == "lava" else library.simulate
        matches = library.compare(conversion, spikes, run)
        if wrong := [m for m in matches if m.against_integers]:
            raise ParityError(
                f"{wrong[0].layer}: {wrong[0].against_integers} of {wrong[0].neuron_steps} spikes of {verify} differ"
                " from the coder's integers; expected none. Nothing was written"
            )
        save_network(conversion.network, out)
    if as_json:
        print_json(
            {
                "network": str(out),
                "bits": bits,
                "verified_by": verify,
                "samples": len(spikes),
                "steps": int(spikes.shape[1]),
                "scales": [scale.to_json() for scale in conversion.scales],
                "spikes": [match.to_json() for match in matches],
            }
        )
        return
    show = console()
    show_scales(show, conversion.scales)
    show_matches(show, matches, verify)
    show_facts(show, [("written", f"{out} ({size(out.stat().st_size)})")])


def show_scales(show: Console, scales: tuple[LayerScale, ...]) -> None:
    """Every number a layer was converted with."""
    columns = ("layer", "bits", "step", "scale k", "vth", "vth error", "du", "dv", "bias_exp", "clipped", "zeros",
               "SNR")  # fmt: skip
    rows = [
        (s.layer, str(s.bits), str(s.step), f"{s.scale:.4f}", str(s.vth), f"{s.vth_error:+.1e}", str(s.du), str(s.dv),
         str(s.bias_exp), f"{s.clipped:.2%}", f"{s.zeros:.2%}", f"{s.snr_db:.1f} dB")
        for s in scales
    ]  # fmt: skip
    show_grid(show, columns, rows)


def show_matches(show: Console, matches: list[LayerMatch], verify: str) -> None:
    """Mismatches per layer."""
    columns = ("layer", "neuron-steps", "spikes", f"{verify} != integers", "!= floats", "share", "largest u", "v")
    rows = [
        (m.layer, f"{m.neuron_steps:,}", f"{m.spikes:,}", f"{m.against_integers:,}", f"{m.against_floats:,}",
         f"{m.float_share:.3%}", f"{m.largest_u:.1%}", f"{m.largest_v:.1%}")
        for m in matches
    ]  # fmt: skip
    show_grid(show, columns, rows)


def _spikes(saved: Any, data: str, reader: dict[str, Any], samples: int) -> Any:
    import numpy as np

    from edgessl.errors import ConfigError
    from neuromorphic.spike_data import open_spikes
    from neuromorphic.training import parse_spiking_recipe

    recipe = parse_spiking_recipe(saved.recipe)
    source = open_spikes(data, recipe.encoder.name, recipe.encoder.options, recipe.seed, **reader)
    if source.shape[1] != saved.n_in:
        raise ConfigError(f"{data} gives {source.shape[1]} channels, the coder takes {saved.n_in}; give its own data")
    n = len(source)
    return source.take(np.unique(np.linspace(0, n - 1, min(n, samples)).round().astype(np.int64)))
