"""`edgessl inspect`: what a bundle or a checkpoint holds, verified; needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from edgessl.cli.console import console, print_json, show_facts, show_grid, show_members, size
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag

if TYPE_CHECKING:
    from rich.console import Console

    from edgessl.device import Bundle
    from edgessl.device.bundle.specs import LatentSpec

_STEP_TABLES = ("step.forms.", "step.tuning.ms.")  # of a bundle's provenance; shown as a table
_BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


@click.command(
    epilog=examples(
        "edgessl inspect runs/digits/digits.edgessl",
        "edgessl inspect runs/digits/checkpoint.safetensors",
        "edgessl inspect model.edgessl --json | jq .manifest.hyper",
        "edgessl inspect model.edgessl --target tensorrt",
    )
)
@click.argument("path", metavar="BUNDLE|CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "--target", type=click.Choice(["tensorrt"]), help="Say instead which graphs would run there, and why not."
)
@json_flag
def inspect(path: Path, target: str | None, as_json: bool) -> None:
    """Show what a bundle or a checkpoint holds.

    A bundle is verified, as a device does it, before it is shown: size and SHA-256 of every member, graphs
    that stand alone, a state without NaN. A checkpoint is read without executing anything. Needs no torch.

    With --target tensorrt every graph that TensorRT may get is checked against its rules, without a GPU and
    without TensorRT (needs onnx); the quantized forms made for ONNX Runtime's CPU are left out.
    """
    if target is not None:
        _show_target(path, as_json)
        return
    if path.is_dir() or _is_zip(path):
        from edgessl.device import Bundle

        bundle = Bundle.open(path)
        if as_json:
            manifest = json.loads(bundle.manifest.to_bytes())
            print_json({"kind": "bundle", "path": str(path), "digest": bundle.digest, "manifest": manifest})
        else:
            _show_bundle(path, bundle)
    else:
        checkpoint = _read_checkpoint(path)
        if as_json:
            print_json({"kind": "checkpoint", "path": str(path), **checkpoint})
        else:
            _show_checkpoint(path, checkpoint)


def _show_target(path: Path, as_json: bool) -> None:
    from edgessl.device import Bundle
    from edgessl.errors import MissingDependencyError

    bundle = Bundle.open(path)
    try:
        from export.tensorrt.gate import bundle_verdicts
    except ImportError as error:
        text = f"--target tensorrt reads graphs with onnx: pip install edgessl[export] ({error})"
        raise MissingDependencyError(text) from None
    found = bundle_verdicts(bundle)
    if as_json:
        print_json(
            {
                "target": "tensorrt",
                "legal": all(verdict.legal for verdict in found.values()),
                "graphs": {key: verdict.legal for key, verdict in found.items()},
                "violations": [{"graph": k, **v.to_json()} for k, verdict in found.items() for v in verdict.violations],
            }
        )
        return
    show = console()
    for key, verdict in found.items():
        profile = f"; needs a profile for {', '.join(verdict.dynamic_inputs)}" if verdict.dynamic_inputs else ""
        if verdict.legal:
            show.print(f"\N{CHECK MARK} {key}: legal in TensorRT{profile}", style="green", soft_wrap=True)
        else:
            show.print(f"\N{BALLOT X} {key}: {len(verdict.violations)} violations", style="red", soft_wrap=True)
        for violation in verdict.violations:
            show.print(f"    {plain(str(violation))}", soft_wrap=True, markup=False)


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _show_bundle(path: Path, bundle: Bundle) -> None:
    m, show = bundle.manifest, console()
    total = sum(member.bytes for member in m.members.values())
    kinds: dict[str, int] = {}
    for entry in m.parameters:
        kinds[entry.kind] = kinds.get(entry.kind, 0) + entry.size
    show.print(f"\N{CHECK MARK} {path}", style="bold green", soft_wrap=True)
    rows = [
        ("bundle", f"{plain(m.name)}: {len(m.members)} members, {size(total)}, every SHA-256 as stated"),
        ("digest", bundle.digest),
        ("signature", _signature(bundle)),
        ("input", _input(m.input.to_json())),
        *_latent(m.latent),
        ("embedding", f"{m.embedding_dim} numbers"),
        ("encoder", _component(m.encoder.to_json())),
        ("objective", _component(m.objective.to_json())),
        ("optimizer", _component(m.optimizer.to_json())),
        *([("strategy", _component(m.strategy.to_json()))] if m.strategy else []),
        ("views", plain(" > ".join(v.name for v in m.views)) or "none"),
        ("parameters", f"{m.theta_size:,} ({', '.join(f'{n:,} {kind}' for kind, n in kinds.items())})"),
        ("step", f"{m.batch_size} samples, {m.noise_shape[1]} random numbers for each"),
        ("slots", _slots({s.name: s.shape for s in m.slots})),
        ("hyper", _pairs(m.hyper)),
        ("graphs", f"{', '.join(m.graphs)}; opset {m.opset}"),
        ("parity", _pairs(dict(_flat(m.parity)))),
        ("provenance", _pairs({k: v for k, v in _flat(m.provenance) if not k.startswith(_STEP_TABLES)})),
    ]
    show_facts(show, rows)
    _show_forms(show, m.provenance)
    show_members(show, m.members)


def _show_forms(show: Console, provenance: Mapping[str, Any]) -> None:
    """What each convolution of the training step was lowered to, with its time where that was measured."""
    forms, measured = (
        dict(_flat(_branch(provenance, *path))) for path in (("step", "forms"), ("step", "tuning", "ms"))
    )
    rows: dict[str, dict[str, str]] = {}
    for site, form in forms.items():
        family, _, sizes = site.partition(" ")
        took = measured.get(f"{site}.{form}")
        rows.setdefault(sizes, {})[family] = plain(form) + (f" {took:.2f} ms" if isinstance(took, float) else "")
    if rows:
        families = sorted({family for found in rows.values() for family in found})
        columns = ["convolution of the step", *(plain(family).replace("_", " ") for family in families)]
        cells = ([plain(sizes), *(found.get(family, "") for family in families)] for sizes, found in rows.items())
        show_grid(show, columns, cells, left=columns)


def _branch(tree: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The mapping at `path`; an empty one where there is none, since a provenance may hold anything."""
    for key in path:
        tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
    return tree if isinstance(tree, Mapping) else {}


def _signature(bundle: Bundle) -> str:
    from edgessl.device.bundle.signature import hint

    if bundle.signature is None:
        return "none"
    return f"says it is by key {hint(bundle.signature)[:16]}; to check: edgessl verify --key PUBLIC"


def _latent(latent: LatentSpec | None) -> list[tuple[str, str]]:
    """What a bundle with a cut remembers and learns from; nothing without a cut."""
    if latent is None:
        return []
    shape = "x".join(map(str, latent.shape))
    stored = f"{math.prod(latent.shape):,} bytes each, scale {latent.scale:.3g}, zero point {latent.zero_point}"
    return [("cut", f"after {plain(latent.cut)}: what comes before is frozen"), ("latent", f"{shape}; {stored}")]


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Recipe, input, step, slots and history of a checkpoint file; DataError unless it is one."""
    from edgessl.checkpoint_file import read_checkpoint  # numpy; edgessl.checkpoint would import torch
    from edgessl.errors import DataError

    try:
        arrays, step, documents = read_checkpoint(path)
    except DataError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: neither a bundle nor an edgessl checkpoint ({why})") from None
    columns, history = documents.pop("columns"), arrays.pop("history")
    slots = {
        name.removeprefix("slot."): list(a.shape) for name, a in sorted(arrays.items()) if name.startswith("slot.")
    }
    return {
        **documents,
        "step": step,
        "parameters": int(arrays["slot.theta"].size),
        "slots": slots,
        "history": {name: history[:, i].tolist() for i, name in enumerate(columns)},
    }


def _show_checkpoint(path: Path, found: dict[str, Any]) -> None:
    recipe, history, show = found["recipe"], found["history"], console()
    show.print(f"\N{CHECK MARK} {path}", style="bold green", soft_wrap=True)
    rows = [
        ("checkpoint", f"step {found['step']:,}, {size(path.stat().st_size)}"),
        ("input", _input(found["input"])),
        ("encoder", _component(recipe["encoder"])),
        ("objective", _component(recipe["objective"])),
        ("recipe", _pairs({k: v for k, v in recipe.items() if k not in ("encoder", "objective", "views")})),
        ("parameters", f"{found['parameters']:,}"),
        ("slots", _slots(found["slots"])),
        ("provenance", _pairs(dict(_flat(found["provenance"])))),
    ]
    curves = [
        (name, f"{sparkline(values)}  {values[-1]:.3g}")
        for name, values in history.items()
        if name != "step" and any(map(math.isfinite, values))
    ]
    show_facts(show, [*rows, *curves])


def sparkline(values: list[float], width: int = 48) -> str:
    """Values as a line of blocks, scaled to their own range; a dot where one is not finite."""
    if len(values) > width:
        edges = [len(values) * i // width for i in range(width + 1)]
        values = [fmean(values[a:b]) for a, b in pairwise(edges)]
    finite = [v for v in values if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] if math.isfinite(v) else "." for v in values)


def plain(value: Any) -> str:
    """A value from a file as text that cannot move the cursor."""
    text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{plain(key)} {plain(value)}" for key, value in values.items()) or "none"


def _component(part: Mapping[str, Any]) -> str:
    options = _pairs(part["options"]) if part["options"] else ""
    return f"{plain(part['name'])} ({options})" if options else plain(part["name"])


def _slots(slots: Mapping[str, Any]) -> str:
    return ", ".join(f"{plain(name)} {list(shape)}" for name, shape in slots.items())


def _input(spec: Mapping[str, Any]) -> str:
    mean, std = (" ".join(f"{v:.3g}" for v in spec[key]) for key in ("mean", "std"))
    shape = "x".join(map(str, spec["shape"]))
    return f"{spec['kind']} {shape}, {plain(spec['units'])}; mean {mean}, std {std}"
