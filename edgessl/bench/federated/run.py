"""How many devices a federation can have: rows by level of reality. docs/federated_scale.md says what each level is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from edgessl.bench.process import Worker
from edgessl.bench.results import keep
from edgessl.errors import ConfigError
from edgessl.machine import machine, versions

LEVELS = ("A", "C")
COHORTS = ((10_000, 100_000), (1_000, 1_000_000))  # clients, parameters
# large buffers are kept: glibc would hand the pages of each reply back and take them again, a quarter of the time
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
_TIMEOUT_S = 600.0


def run(
    levels: str | Sequence[str] = LEVELS,
    cohorts: Sequence[Sequence[int]] = COHORTS,
    nodes: int = 20,
    rounds: int = 10,
    encoder: str = "cnn1d",
    swarm: Sequence[int] = (1_000, 100),
    clock: bool = True,
    *,
    out: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure rounds at each level, each in processes of its own.

    Args:
        levels: "A", everything but the network and the training, in one process; "C", a real SuperLink with TLS and
            keys, and a process per device. Level B, Flower's own engine on Ray, is not part of this bench.
        cohorts: (clients, parameters) of level A.
        nodes, rounds, encoder: of level C.
        swarm: nodes registered, and how many of them are asked in a round, at level C in one process; () for none.
        clock: check the virtual clock against `nodes` real nodes that sleep.
        out: a file for the result.
        progress: told in a line what was done.

    Returns:
        {"bench", "date", "machine", "versions", "settings", "rows"}, and "clock". A row: level, clients (of a round),
        registered, parameters, seconds (of a round; at level C the median), updates_per_second, bytes_up_per_update,
        bytes_down_per_update, server_peak_rss_mb, node_peak_rss_mb; at level C p50_s and p95_s as well.

    Raises:
        ConfigError: an unknown level.
    """
    levels = (levels,) if isinstance(levels, str) else tuple(levels)
    if unknown := [level for level in levels if level not in LEVELS]:
        raise ConfigError(f"unknown level {unknown[0]!r}; choose among {', '.join(LEVELS)}")
    rows: list[dict[str, Any]] = []
    result = {
        "bench": "federated",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "settings": {"cohorts": [list(c) for c in cohorts], "nodes": nodes, "rounds": rounds, "encoder": encoder},
        "rows": rows,
    }
    if "A" in levels:
        for clients, parameters in cohorts:
            with Worker("edgessl.bench.federated.in_process", ENVIRONMENT, _TIMEOUT_S) as worker:
                rows.append(worker.ask({"clients": clients, "parameters": parameters}))
            progress(f"A: {clients} x {parameters} in {rows[-1]['seconds']:.1f} s")
            keep(out, result)
    if "C" in levels:
        from edgessl.bench.federated.wire import measure

        rows.append(measure(nodes, rounds, encoder, progress))
        keep(out, result)
    if "C" in levels and (swarm or clock):
        from edgessl.bench.federated import swarm as swarms

        if swarm:
            registered, asked = swarm
            rows += swarms.measure(registered, asked, rounds, encoder, [], progress)
            keep(out, result)
        if clock:
            result["clock"] = swarms.check_clock(nodes, rounds, encoder, progress)
            keep(out, result)
    return result
