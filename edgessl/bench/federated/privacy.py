"""What central differential privacy costs: the fleet of `compression`, with noise in the mean, at several levels.

The noise that one device's presence needs does not depend on how many devices there are, and is divided by their
number: so each level is also that of a larger fleet under a budget, which the table names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from edgessl.bench.federated.compression import Row, Settings, accuracy, learners_of, model_of
from edgessl.bench.federated.compression_data import Fleet, Float, fleet
from edgessl.bench.federated.fleets import federate
from edgessl.bench.results import keep, spread, start
from edgessl.continual.torch_runtime import TorchModel
from federated.message import Update
from federated.privacy.budget import GaussianPrivacy
from federated.privacy.central import CentralPrivacy
from federated.privacy.gaussian import epsilon
from federated.strategies import StreamingFedAvg

DATA = "har_phone_watch"
NOISE = (0.0, 0.1, 0.3, 1.0)  # noise multipliers; 0: clipping alone
DELTA, BUDGET = 1e-5, 8.0  # and the epsilon that the table finds a fleet for
CLIPPING_NORM = 0.46  # typical_change() on 2026-11-27
_NONE = 1e-9  # noise that is none


def run(
    noise: Sequence[float] = NOISE,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    clipping_norm: float = CLIPPING_NORM,
    out: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> Row:
    """Run a federation per level of noise and seed, and judge the last global encoder.

    Args:
        noise: noise multipliers: standard deviation of the noise in the sum of changes over `clipping_norm`.
        seeds: of weights and noise.
        clipping_norm: length to which a device's change is cut; the default is what `typical_change` gives.
        out: file that is written after every run, and continued if it exists; "" writes none.
        progress: told in a line what was done.

    Returns:
        {"bench", "settings", "rows", "date", "machine", "versions"}. A row: noise, seed, clients, epsilon (of all
        rounds; null without noise), knn in percent, as that of `compression`; seconds of processor time.

    Raises:
        ConfigError: `out` was measured with other settings.
    """
    settings = asdict(Settings()) | {"data": DATA, "clipping_norm": clipping_norm, "delta": DELTA}
    result = start("federated_privacy", settings, out)
    done = {(row["noise"], row["seed"]) for row in result["rows"]}
    torch.set_num_threads(1)
    for seed in seeds:
        for level in noise:
            if (level, seed) not in done:
                result["rows"].append(measure(level, seed, clipping_norm))
                progress(f"noise {level}, {seed}: {result['rows'][-1]['knn']:.1f}")
                keep(out, result)
    return result


def measure(level: float, seed: int, clipping_norm: float) -> Row:
    """One row."""
    began, found, settings = time.process_time(), fleet(DATA, seed), Settings()
    privacy = GaussianPrivacy(level or _NONE, clipping_norm, DELTA, 1e300)
    drawn = np.random.default_rng([seed, 1])  # a bench repeats itself; a server's noise comes from the system
    strategy = CentralPrivacy(StreamingFedAvg(), privacy, cohort=len(found.devices), rng=drawn)
    theta, model = _federate(found, settings, seed, strategy)
    return {
        "noise": level,
        "seed": seed,
        "clients": len(found.devices),
        "epsilon": privacy.epsilon(settings.rounds) if level else None,
        "knn": accuracy(model, theta, found),
        "seconds": round(time.process_time() - began, 1),
    }


def typical_change(seed: int = 7) -> float:
    """The median length of a device's change of theta in a run without privacy; needs neither labels nor the test.

    McMahan et al. 2018 clip at the median.
    """
    lengths = list[float]()

    class Measuring(StreamingFedAvg):
        def aggregate(
            self, number: int, reference: Float, updates: Iterable[Update]
        ) -> tuple[Float | None, dict[str, float]]:
            def measured() -> Iterable[Update]:
                for update in updates:
                    lengths.append(float(np.linalg.norm(update.theta - reference)))
                    yield update

            return super().aggregate(number, reference, measured())

    _federate(fleet(DATA, seed), Settings(), seed, Measuring())
    return float(np.median(lengths))


def table(result: Row) -> str:
    """The result as Markdown; the last column is the fleet in which as much noise in the mean costs BUDGET."""
    settings = result["settings"]
    lines = [
        f"| noise multiplier | epsilon | kNN | against clipping alone | devices for epsilon {BUDGET:g} |",
        "|---|---|---|---|---|",
    ]
    alone = {row["seed"]: row["knn"] for row in result["rows"] if not row["noise"]}
    for level in sorted({row["noise"] for row in result["rows"]}):
        rows = [row for row in result["rows"] if row["noise"] == level]
        off = spread([row["knn"] - alone[row["seed"]] for row in rows if row["seed"] in alone], sign="+")
        cells = [f"{level:g}", "–", spread([row["knn"] for row in rows]), off, "–"]
        if level:
            devices = rows[0]["clients"] * multiplier(settings["rounds"], BUDGET, settings["delta"]) / level
            cells[1], cells[4] = f"{rows[0]['epsilon']:,.0f}", f"{float(f'{devices:.2g}'):,.0f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def multiplier(releases: int, budget: float, delta: float) -> float:
    """The least noise multiplier with which that many releases cost no more than `budget`, by bisection."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if epsilon(releases, middle, delta) > budget else (low, middle)
    return high


def _federate(
    found: Fleet, settings: Settings, seed: int, strategy: StreamingFedAvg | CentralPrivacy
) -> tuple[Float, TorchModel]:
    """The last global weights (P,), and the model they are for."""
    model = model_of(found, settings, seed)
    with TemporaryDirectory(prefix="edgessl-privacy-") as folder, ExitStack() as stack:
        learners = learners_of(model, found.devices, Path(folder), seed, stack)
        theta, _ = federate(model, learners, found.local_steps, {"rounds": settings.rounds}, strategy=strategy)
    return theta, model
