"""How small and how fast quantized encoders are, and what quantization does to what they know."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from edgessl.bench.quantize.accuracy import AWARE_BITS, CASES, METHODS, Row, measure, methods_of, trained_as
from edgessl.bench.quantize.speed import ENCODERS, latencies
from edgessl.bench.results import keep
from edgessl.errors import ConfigError, DataError
from edgessl.machine import machine, versions

PARTS = ("speed", "accuracy")


def run(
    encoders: Sequence[str] = tuple(ENCODERS),
    cases: Sequence[str] = ("fashion", "har"),
    seeds: int = 3,
    *,
    parts: Sequence[str] = PARTS,
    aware: Sequence[int] = AWARE_BITS,
    methods: Sequence[str] = tuple(METHODS),
    threads: int = 1,
    turns: int = 5,
    turn_seconds: float = 0.4,
    graphs: str = "",
    out: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure quantized encoders.

    Args:
        encoders: some of `edgessl.bench.quantize.speed.ENCODERS`, for size and latency.
        cases: some of `edgessl.bench.quantize.accuracy.CASES`, pretrained here, for accuracy.
        seeds: trainings per case, with seeds 0, 1, ...
        parts: "speed", "accuracy" or both.
        aware: bits of quantization-aware trainings beside the float one, 2 to 8.
        methods: some of `edgessl.bench.quantize.accuracy.METHODS`, by which the float one is quantized.
        threads: of every runtime, for latency.
        turns: times each is measured, in alternation; with 0 and `graphs` the forms are only written.
        turn_seconds: length of one measurement.
        graphs: a folder for the forms whose latency is measured; those that are there already are not made again.
        out: JSON file, written after every step and continued if it exists.
        progress: told in a line what was done.

    Returns:
        {"bench", "date", "machine", "versions", "settings", "speed", "accuracy"}; rows as `speed.latencies` and
        `accuracy.measure` give them.

    Raises:
        ConfigError: an unknown name or a number that is not positive.
        DataError: `out` holds something else.
    """
    named = (("encoders", encoders, ENCODERS), ("cases", cases, CASES), ("parts", parts, PARTS))
    for what, given, known in (*named, ("methods", methods, METHODS)):
        if unknown := sorted(set(given) - set(known)):
            raise ConfigError(f"{what}: unknown {unknown[0]!r}; choose some of {', '.join(known)}")
    if seeds < 1 or threads < 1 or turns < (0 if graphs else 1) or turn_seconds <= 0:
        raise ConfigError("expected seeds, threads, turns and turn_seconds above 0")
    found = _continued(Path(out)) if out else {"speed": [], "accuracy": []}

    def result() -> dict[str, Any]:
        settings = {"threads": threads, "turns": turns, "turn_seconds": turn_seconds, "objective": "simclr"}
        facts = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine(), "versions": versions()}
        return {"bench": "quantize", **facts, "settings": settings, **found}

    def add(part: str, rows: list[Row]) -> None:
        found[part] += rows
        keep(out, result())

    if "speed" in parts:
        done = {row["encoder"] for row in found["speed"]}
        for encoder in [name for name in encoders if name not in done]:
            add("speed", latencies(encoder, threads, turns, turn_seconds, progress, graphs))
    if "accuracy" in parts:
        had = {(row["case"], row["seed"], row["trained"], row["method"]) for row in found["accuracy"]}
        for seed, name, bits in product(range(seeds), cases, (0, *aware)):
            case = CASES[name]
            missing = [m for m in methods_of(bits, methods) if (case.title, seed, trained_as(bits), m) not in had]
            if missing:
                add("accuracy", measure(case, seed, bits, missing, progress))
    return result()


def _continued(path: Path) -> dict[str, list[Row]]:
    """Rows that an earlier bench left in `path`."""
    if not path.exists():
        return {"speed": [], "accuracy": []}
    try:
        document = json.loads(path.read_text())
        return {part: list(document[part]) for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a result of the quantize bench: {error}") from None
