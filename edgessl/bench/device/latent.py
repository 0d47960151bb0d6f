"""What a cut saves: the tail's training step, the int8 backbone and the memory, beside the full step, for every cut.

Each bundle runs in a process of its own; all processes of an encoder stay alive and take turns. Exporting takes
minutes, measuring seconds: with `bundles` the first is done beforehand (`turns=0`), the second on a quiet machine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgessl.bench.process import Worker, WorkerError
from edgessl.bench.results import keep, start
from edgessl.errors import ConfigError
from edgessl.machine import load_average, load_warnings

if TYPE_CHECKING:
    from edgessl.device import Bundle

FULL = "full"
CALIBRATION = 64  # samples
TIMEOUT_S = 600.0
TIMES = ("step_ms", "backbone_ms", "backbone_batch_ms")

Row = dict[str, Any]


def run(
    encoders: Sequence[str] = ("ds_cnn_s", "resnet8", "cnn1d"),
    cuts: Sequence[str] = (),
    *,
    batch_size: int = 32,
    turns: int = 5,
    turn_seconds: float = 1.0,
    bundles: str = "",
    out: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time VICReg steps with momentum SGD, one thread, for every encoder in full and behind its cuts.

    Args:
        encoders: names for `edgessl.encoders.build_encoder`.
        cuts: stages to cut after; of each encoder the last two that are possible when empty.
        batch_size: samples per step.
        turns: how many times each bundle is measured, in alternation; with 0 and `bundles` they are only written.
        turn_seconds: length of one measurement of the step (three steps at least).
        bundles: a folder for the bundles; those that are there already are not exported again.
        out: JSON file, written after every encoder and continued if it exists.
        progress: told in a line what is being done.

    Returns:
        {"bench", "date", "machine", "versions", "settings", "load_before", "warnings", "rows"}; load and warnings are
        those of the last run. A row: `encoder`, `cut` ("full"
        for none), `step_ms` (median of the turns' medians), `times_faster` (the full step's `step_ms` over this one's),
        `backbone_ms` of one sample, `backbone_batch_ms` per sample of a batch (None in full), `latent_shape`,
        `bytes_per_sample` (as remembered: float32 samples, uint8 latents), `sample_bytes_uint8` (a sample at a byte a
        value, for comparison), `trained` (parameters), `peak_rss_mb` (1e6 bytes), `bundle_mb`, `error`.

    Raises:
        ConfigError: an unknown encoder or cut, a number that is too small, or `out` was measured with other settings.
        DataError: `out` holds something else.
    """
    if not encoders or batch_size < 4 or turns < (0 if bundles else 1) or turn_seconds <= 0:
        raise ConfigError(
            "bench latent: expected encoders, batch_size >= 4, turns >= 1 and turn_seconds > 0; "
            f"found {list(encoders)}, {batch_size}, {turns}, {turn_seconds}"
        )
    load = load_average()
    settings = {"batch_size": batch_size, "turns": turns, "turn_seconds": turn_seconds, "objective": "vicreg"}
    result = start("latent", settings, out)
    result |= {"load_before": load, "warnings": load_warnings(load, 1)}
    done = {row["encoder"] for row in result["rows"]}
    for encoder in [name for name in encoders if name not in done]:
        with TemporaryDirectory(prefix="edgessl-latent-") as folder:
            paths = write(Path(bundles or folder) / encoder, encoder, cuts, batch_size, progress)
            if turns:
                result["rows"] += measure(encoder, paths, turns, turn_seconds, progress)
                keep(out, result)
    return result


def write(
    folder: Path, encoder: str, cuts: Sequence[str], batch_size: int, progress: Callable[[str], None]
) -> dict[str, Path]:
    """A bundle in full and one per cut, from fresh weights, by the name of the cut; those in `folder` already stay."""
    from edgessl.bench.device.bundles import checkpoint  # torch and onnx, from here on
    from edgessl.encoders.cut import cut_points
    from export import export_bundle
    from export.parity import random_fields

    made = checkpoint(encoder)
    chosen = list(cuts) or cut_points(made.encoder())[-2:]
    calibration = random_fields(made.input, CALIBRATION, 0)
    paths = {}
    folder.mkdir(parents=True, exist_ok=True)
    for cut in (None, *chosen):
        name = cut or FULL
        paths[name] = folder / f"{name}.edgessl"
        if not paths[name].is_file():
            progress(f"{encoder}: exporting {name}")
            export_bundle(made, paths[name], calibration=calibration, batch_size=batch_size, cut=cut)
    return paths


def measure(
    encoder: str, bundles: Mapping[str, Path], turns: int, seconds: float, progress: Callable[[str], None]
) -> list[Row]:
    """A row per bundle; the processes measure in turns."""
    from edgessl.device import Bundle

    rows = {cut: _described(encoder, cut, Bundle.open(path), path) for cut, path in bundles.items()}
    found: dict[str, list[Row]] = {cut: [] for cut in bundles}
    with ExitStack() as stack:
        workers = {}
        for cut, path in bundles.items():
            workers[cut] = stack.enter_context(
                Worker("edgessl.bench.device.latent_worker", {"OMP_NUM_THREADS": "1"}, TIMEOUT_S)
            )
            _ask(workers, cut, {"bundle": str(path)}, rows)
        for turn in range(turns):
            progress(f"{encoder}: turn {turn + 1} of {turns}")
            for cut in list(workers):
                if answer := _ask(workers, cut, {"seconds": seconds}, rows):
                    found[cut].append(answer)
    for cut, row in rows.items():
        if row["error"] is None:
            row |= {name: _median([answer[name] for answer in found[cut]]) for name in TIMES}
            row["peak_rss_mb"] = round(max(answer["peak_rss_mb"] for answer in found[cut]), 1)
    full = rows[FULL]["step_ms"]
    for row in rows.values():
        if full and row["step_ms"]:
            row["times_faster"] = round(full / row["step_ms"], 2)
    return list(rows.values())


def _ask(workers: dict[str, Worker], cut: str, question: Row, rows: Mapping[str, Row]) -> Row | None:
    """The worker's answer; one that fails is dropped and its row says why."""
    try:
        return workers[cut].ask(question)
    except WorkerError as error:
        rows[cut]["error"] = str(error)
        del workers[cut]
        return None


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None


def _described(encoder: str, cut: str, bundle: Bundle, path: Path) -> Row:
    """What a row says before anything ran."""
    manifest, size = bundle.manifest, math.prod(bundle.manifest.learned.shape)
    return {
        "encoder": encoder,
        "cut": cut,
        **dict.fromkeys((*TIMES, "times_faster", "peak_rss_mb")),
        "latent_shape": list(manifest.latent.shape) if manifest.latent else None,
        "bytes_per_sample": size if manifest.latent else 4 * size,
        "sample_bytes_uint8": math.prod(manifest.input.shape),
        "trained": sum(p.size for p in manifest.parameters if p.kind in ("weight", "vector")),
        "bundle_mb": round(path.stat().st_size / 1e6, 3),
        "error": None,
    }
