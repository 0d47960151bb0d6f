"""What cannot break it: processes killed at random, mutated inputs, and a long day of learning.

Each part runs in a process of its own and a little at a time; with `out` the result is written as it grows, and a
run that was interrupted goes on where it ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgessl.bench.faults.fuzz import READERS
from edgessl.bench.process import Worker, WorkerError
from edgessl.bench.results import keep
from edgessl.errors import ConfigError
from edgessl.machine import machine, versions

PARTS = ("kills", "fuzz", "soak")
SHARES = {"bundle": 0.1, "session": 0.04}  # of all fuzz inputs; the other readers share the rest
KILLS, INPUTS, SAMPLES = 50, 500, 10_000  # at a time
TIMEOUT_S = 900.0
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

Row = dict[str, Any]


def run(
    parts: Sequence[str] = PARTS,
    *,
    kills: int = 20,
    fuzz: int = 2_000,
    soak: int = 4_000,
    seed: int = 0,
    out: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Kill, fuzz and soak. For the record: --set kills=1000 --set fuzz=100000 --set soak=200000 --set out=FILE.

    Args:
        parts: some of `PARTS`.
        kills: processes killed with SIGKILL while they learn and save.
        fuzz: mutated inputs, over all readers.
        soak: samples observed by one process that learns all the time.
        seed: of everything.
        out: a file that the result is written to as it grows, and taken up from.
        progress: told in a line what is being done.

    Returns:
        {"bench", "machine", "versions", "settings", "rows"} and the totals: `kills`, `corrupted` (directories that were
        damaged), `lost_acknowledged` (saves), `fuzz_inputs`, `crashes` (an exception that is not one of edgessl's, or
        the end of the process), `hangs` (over 5 s), `executions` (audit events: code, processes, modules, other files),
        `soak_samples`, `rss_growth_percent` (last tenth of the run against the first tenth after a tenth of warm-up).

    Raises:
        ConfigError: an unknown part, or a number below 1.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ConfigError(f"bench faults: unknown part {unknown[0]!r}; choose some of {', '.join(PARTS)}")
    wanted = {"kills": kills, "fuzz": fuzz, "soak": soak}
    if min(wanted.values()) < 1:
        raise ConfigError(f"bench faults: expected numbers of 1 or more, found {wanted}")
    settings = {"seed": seed, **wanted}
    rows = _taken_up(out, seed)
    fast = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a kill is no power loss: what a sync costs is not asked
    with TemporaryDirectory(prefix="edgessl-faults-", dir=fast) as folder:
        make = {"kills": _kill, "fuzz": _fuzz, "soak": _soak}
        for part in parts:
            for row in make[part](Path(folder), wanted[part], seed, rows):
                rows[row["part"], row.get("reader", "")] = row
                result = _result(settings, rows)
                progress(_line(row))
                keep(out, result)
    return _result(settings, rows)


def _taken_up(out: str | None, seed: int) -> dict[tuple[str, str], Row]:
    if out is None or not Path(out).exists():
        return {}
    before = json.loads(Path(out).read_text())
    if before["settings"]["seed"] != seed:
        raise ConfigError(f"{out}: was made with seed {before['settings']['seed']}; give that one, or another file")
    return {(row["part"], row.get("reader", "")): row for row in before["rows"]}


def _result(settings: dict[str, Any], rows: dict[tuple[str, str], Row]) -> dict[str, Any]:
    def total(part: str, key: str) -> int | None:
        found = [row[key] for row in rows.values() if row["part"] == part]
        return sum(found) if found else None

    soak = rows.get(("soak", ""), {})
    return {
        "bench": "faults",
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "kills": total("kills", "kills"),
        "corrupted": total("kills", "corrupted"),
        "lost_acknowledged": total("kills", "lost"),
        "fuzz_inputs": total("fuzz", "inputs"),
        "crashes": total("fuzz", "crashes"),
        "hangs": total("fuzz", "hangs"),
        "executions": total("fuzz", "executions"),
        "soak_samples": soak.get("observed"),
        "rss_growth_percent": soak.get("rss_growth_percent"),
        "rows": list(rows.values()),
    }


def _line(row: Row) -> str:
    match row["part"]:
        case "kills":
            return f"{row['kills']} kills, {row['corrupted']} corrupted, {row['lost']} lost"
        case "fuzz":
            return f"{row['reader']}: {row['inputs']} inputs, {row['crashes']} crashes, {row['hangs']} hangs"
        case _:
            return f"soak: {row['observed']} samples, {row['steps']} steps, {row['rss_mb']:.0f} MB"


@contextmanager
def _worker(name: str, job: dict[str, Any]) -> Iterator[Worker]:
    with Worker(f"edgessl.bench.faults.{name}", ONE_THREAD, TIMEOUT_S) as worker:
        worker.ask(job)
        yield worker


def _kill(folder: Path, kills: int, seed: int, rows: dict[tuple[str, str], Row]) -> Iterator[Row]:
    from edgessl.bench.device.bundles import write_scaling

    row = rows.get(("kills", "")) or {"part": "kills", "kills": 0, "corrupted": 0, "lost": 0, "unsaved": 0}
    row = {"acknowledged": 0, "found": [], **row}
    if row["kills"] >= kills:
        return
    bundle = write_scaling(folder)  # quick to open and to step: most of a life is saving
    job = {"bundle": str(bundle), "folder": str(folder), "seed": seed + row["kills"]}  # taken up: new draws
    with _worker("kill_worker", job) as worker:
        while row["kills"] < kills:
            count = min(KILLS, kills - row["kills"])
            answer = worker.ask({"kills": count})
            row = {**row, **{key: row[key] + answer[key] for key in answer}, "kills": row["kills"] + count}
            yield row


def _fuzz(folder: Path, inputs: int, seed: int, rows: dict[tuple[str, str], Row]) -> Iterator[Row]:
    from edgessl.bench.device.bundles import write_scaling

    rest = (1 - sum(SHARES.values())) / (len(READERS) - len(SHARES))
    bundle = write_scaling(folder)
    job = {"bundle": str(bundle), "folder": str(folder), "seed": seed}
    for reader in READERS:
        wanted = round(inputs * SHARES.get(reader, rest))
        fresh = {"inputs": 0, "refused": 0, "crashes": 0, "hangs": 0, "executions": 0, "found": []}
        row = rows.get(("fuzz", reader)) or {"part": "fuzz", "reader": reader, **fresh}
        while row["inputs"] < wanted:
            with _worker("fuzz_worker", job) as worker:
                try:
                    for after in _batches(worker, row, wanted):
                        row = after
                        yield row
                except WorkerError as error:  # the process is gone, or hangs: the batch counts as one crash
                    found = [*row["found"], {"first": row["inputs"], "kind": "end of the process", "what": str(error)}]
                    count = min(INPUTS, wanted - row["inputs"])
                    row = {**row, "inputs": row["inputs"] + count, "crashes": row["crashes"] + 1, "found": found}
                    yield row


def _batches(worker: Worker, row: Row, wanted: int) -> Iterator[Row]:
    while row["inputs"] < wanted:
        count = min(INPUTS, wanted - row["inputs"])
        answer = worker.ask({"reader": row["reader"], "first": row["inputs"], "count": count})
        kinds = [failure["kind"] for failure in answer["failures"]]
        row = {
            **row,
            "inputs": row["inputs"] + count,
            "refused": row["refused"] + answer["refused"],
            "crashes": row["crashes"] + kinds.count("crash"),
            "hangs": row["hangs"] + kinds.count("hang"),
            "executions": row["executions"] + len(answer["executions"]),
            "found": [*row["found"], *answer["failures"], *answer["executions"][:5]],
        }
        yield row


def _soak(folder: Path, samples: int, seed: int, rows: dict[tuple[str, str], Row]) -> Iterator[Row]:
    """Never taken up: one process has to live through all of it."""
    from edgessl.bench.device.bundles import write_features

    if rows.get(("soak", ""), {}).get("observed", 0) >= samples:
        return
    job = {"bundle": str(write_features(folder)), "folder": str(folder), "seed": seed, "samples": samples}
    with _worker("soak_worker", job) as worker:
        done = 0
        while done < samples:
            count = min(SAMPLES, samples - done)
            answer = worker.ask({"samples": count})
            done += count
            yield {"part": "soak", **answer}
