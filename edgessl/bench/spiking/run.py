"""What spiking coders learn without labels: features beside random, dense and liquid ones; and their integers.

    edgessl bench spiking --set stage=choose --set out=examples/results/spiking_choice.json
    edgessl bench spiking --set chosen=examples/results/spiking_choice.json --set out=examples/results/spiking.json

Labels are used by the linear read-outs alone. The first command chooses each system's one number on validation samples
out of the training samples, with a seed of its own; the second one trains with it and reads the test samples. Every
integer row comes from the arithmetic of the integer network, and `mismatches` counts the spikes at which the simulator
disagrees with it on a few samples (0, or the row is wrong).
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.bench.results import keep, taken_up
from edgessl.bench.spiking.data import CASES, Data, load
from edgessl.bench.spiking.systems import GRID, Row, measure
from edgessl.errors import ConfigError, DataError
from edgessl.machine import machine, versions

STAGES = ("choose", "test")
CHOOSING_SEED = 100  # no seed of the test stage
PACKAGES = ("numpy", "torch", "snntorch", "scikit-learn", "numba")


def run(
    data: Sequence[str] = (),
    systems: Sequence[str] = (),
    seeds: int = 3,
    *,
    stage: str = "test",
    chosen: str = "",
    epochs: int = 0,
    out: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train and read out every system on every data set.

    Args:
        data: some of CASES; all when empty.
        systems: some of GRID; all when empty.
        seeds: runs of each, with seeds 0, 1, ...; stage "choose" has seed 100 alone.
        stage: "choose": every number of GRID, judged on validation samples; "test": one number, judged on test samples.
        chosen: JSON file of a "choose" stage, whose best numbers the test stage takes; without one it takes the last
            of GRID and says "untuned".
        epochs: passes over the data; 0 for the case's own.
        out: JSON file that is written after every run and continued if it exists.
        progress: told in a line what was done.

    Returns:
        {"bench", "stage", "machine", "versions", "settings", "chosen", "summary", "rows"}. A row has data, system,
        seed, setting, bits (None: floats), training ("none", "floats", "integers": quantisation-aware, or "local"),
        read_out ("refit" on these features, or "kept" from the float features), linear (accuracy in [0, 1]) and, where
        a read-out was refitted to floats or local features, knn and rankme; label_bits_in_training is 0.

    Raises:
        ConfigError: an unknown name, `out` holds another bench, or `chosen` lacks a data set or system.
    """
    for kind, names, known in (("data", data, CASES), ("system", systems, GRID), ("stage", (stage,), STAGES)):
        if unknown := sorted(set(names) - set(known)):
            raise ConfigError(f"unknown {kind} {unknown[0]!r}; expected {', '.join(known)}")
    settings: dict[str, Any] = {"stage": stage, "grid": {k: list(v) for k, v in GRID.items()}, "epochs": epochs}
    settings |= {name: asdict(case) for name, case in CASES.items()}
    best = read_choices(Path(chosen)) if chosen else {}
    rows = taken_up(out, {"bench": "spiking", "settings": settings})
    done = {(row["data"], row["system"], row["seed"], row["setting"]) for row in rows}
    opened: dict[str, Data] = {}
    for seed, name, system, setting in _plan(data or CASES, systems or GRID, seeds, stage, best if chosen else None):
        if (name, system, seed, setting) in done:
            continue
        if name not in opened:
            opened[name] = load(CASES[name], choosing=stage == "choose")
        began = time.monotonic()
        found = measure(opened[name], system, seed, setting, epochs, integers=stage == "test")
        rows += [{"data": name, **row} for row in found]
        progress(f"{name} {system} {seed} {setting:g}: {found[-1]['linear']:.3f} in {time.monotonic() - began:.0f} s")
        keep(out, _result(settings, best, rows))
    return _result(settings, best, rows)


def _plan(
    data: Sequence[str] | dict[str, Any],
    systems: Sequence[str] | dict[str, Any],
    seeds: int,
    stage: str,
    best: dict[str, dict[str, float]] | None,
) -> Iterator[tuple[int, str, str, float]]:
    """(seed, data, system, setting) of every run; seeds outermost, so that a bench cut short has whole seeds."""
    if stage == "choose":
        for name, system in itertools.product(data, systems):
            for setting in GRID[system]:
                yield CHOOSING_SEED, name, system, setting
        return
    for seed, name, system in itertools.product(range(seeds), data, systems):
        if system == "input" and seed:
            continue  # the input has no seed
        if not GRID[system]:
            yield seed, name, system, 0.0
        elif best is None:
            yield seed, name, system, GRID[system][-1]
        elif system in best.get(name, {}):
            yield seed, name, system, best[name][system]
        else:
            raise ConfigError(f"nothing was chosen for {system!r} on {name}; run --set stage=choose for it first")


def choices(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """data -> system -> the setting whose last row has the highest accuracy; the smaller number among equals."""
    best: dict[str, dict[str, tuple[float, float]]] = {}
    for row in rows:
        if row["training"] == "none":
            continue
        own = best.setdefault(row["data"], {})
        found = (row["linear"], -abs(row["setting"]))
        if row["system"] not in own or found > (own[row["system"]][0], -abs(own[row["system"]][1])):
            own[row["system"]] = (row["linear"], row["setting"])
    return {name: {system: setting for system, (_, setting) in own.items()} for name, own in best.items()}


def read_choices(path: Path) -> dict[str, dict[str, float]]:
    """The numbers that a "choose" stage found best, from its file.

    Raises:
        DataError: the file is none of a "choose" stage.
    """
    try:
        found = json.loads(path.read_text())
        if found["stage"] != "choose":
            raise ValueError(f"stage {found['stage']!r}")
        return choices(found["rows"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not what --set stage=choose wrote ({error})") from None


def summary(rows: Sequence[Row]) -> list[Row]:
    """Mean and standard deviation over seeds of `linear`, per data, system, bits, training and read-out."""
    keys = ("data", "system", "bits", "training", "read_out")
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row["linear"])
    return [
        {**dict(zip(keys, group, strict=True)), "seeds": len(found), "linear": float(np.mean(found)),
         "std": float(np.std(found, ddof=1)) if len(found) > 1 else 0.0}
        for group, found in groups.items()
    ]  # fmt: skip


def _result(settings: dict[str, Any], best: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    stage = settings["stage"]
    taken = choices(rows) if stage == "choose" else best or "untuned"
    return {"bench": "spiking", "stage": stage, "machine": machine(), "versions": versions(PACKAGES),
            "settings": settings, "chosen": taken, "summary": summary(rows) if stage == "test" else [],
            "rows": rows}  # fmt: skip
