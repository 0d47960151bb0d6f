"""`edgessl federate release`: a bundle with the fleet's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgessl.cli.console import console, print_json, show_facts
from edgessl.cli.group import examples
from edgessl.cli.options import data_options, json_flag, open_data

SAMPLES = 512  # of --calibrate, evenly spaced


@click.command(
    epilog=examples(
        "edgessl federate release model.edgessl runs/federation/theta.safetensors -o model-2.edgessl",
        "edgessl federate release model.edgessl theta.safetensors -o model-2.edgessl --calibrate digits",
        "edgessl sign model-2.edgessl --key factory.key",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Bundle to write.")
@click.option("--calibrate", metavar="DATA", help="Unlabelled samples, to make the int8 encoder anew.")
@data_options
@click.option("--name", help="Name of the new bundle.  [default: the old one's]")
@json_flag
def release(
    bundle: Path,
    weights: Path,
    out: Path,
    calibrate: str | None,
    data_options: dict[str, Any],
    name: str | None,
    as_json: bool,
) -> None:
    """Make a bundle of what a federation learned.

    WEIGHTS is what a run left for BUNDLE. The graphs stay, but those that hold the old weights (int8, TensorRT) are
    left out; with --calibrate the int8 encoder of a bundle that was exported with --requantize is made anew. The
    manifest's provenance says which bundle and version of the fleet's weights the new one comes from.
    Sign it again: a signature is not taken over.
    """
    import numpy as np

    from edgessl.device import Bundle
    from federated import FederationResult
    from federated.release import release as write

    old = Bundle.open(bundle)
    samples = None
    if calibrate is not None:
        source = open_data(calibrate, data_options)
        rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), SAMPLES)).astype(np.int64))
        samples = source.take(rows)
    new = write(old, FederationResult.load(weights, old.digest), out, name=name, samples=samples)
    left = sorted(set(old.manifest.graphs) - set(new.manifest.graphs))
    lineage = new.manifest.provenance["federation"]
    if as_json:
        print_json({"bundle": str(out), "digest": new.digest, "left_out": left, "federation": lineage})
        return
    facts = [
        ("bundle", f"{out}, {new.digest[:12]}"),
        ("from", f"{bundle}, {old.digest[:12]}"),
        ("weights", f"version {lineage['version'][:12]} after {lineage['rounds']} rounds"),
    ]
    show_facts(console(), facts + ([("left out", ", ".join(left))] if left else []))
