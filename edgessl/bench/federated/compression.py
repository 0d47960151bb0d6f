"""How many bytes does a federation need? The same rounds with updates whole and encoded, both ways.

Everything is real but the network: Learners, Flower's messages with their wire bytes counted, `train_round`, the
links' residuals on disk, the server's downlink.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from edgessl.bench.federated.compression_data import DATA, Fleet, Float, fleet
from edgessl.bench.federated.embedding import embed
from edgessl.bench.federated.fleets import federate, open_learners
from edgessl.bench.results import keep, spread, start
from edgessl.continual.torch_runtime import TorchModel
from edgessl.device import Learner, SessionProfile
from edgessl.device.bundle.specs import InputSpec
from edgessl.errors import ConfigError
from edgessl.evaluate.neighbours import knn_predict
from edgessl.recipe import build_step, parse_recipe

Row = dict[str, Any]
KEY = ("data", "method", "seed")

# method -> codec both ways, whether devices keep a residual
METHODS: dict[str, tuple[str, bool]] = {
    "whole": ("whole", True),
    "int8": ("int8", True),
    "topk:0.25+int8": ("topk:0.25+int8", True),
    "topk:0.25+int8, no feedback": ("topk:0.25+int8", False),
    "topk:0.1+int8": ("topk:0.1+int8", True),
    "randomk:0.25+int8": ("randomk:0.25+int8", True),
}
BESIDE = ("random", "centralised")


@dataclass(frozen=True)
class Settings:
    """What the figures depend on; the optimizer and a round's local steps are the data's, see `compression_data`."""

    rounds: int = 12
    batch_size: int = 32
    objective: str = "simclr"


def run(
    data: Sequence[str] = DATA,
    methods: Sequence[str] = (*BESIDE, *METHODS),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    out: str = "",
    progress: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> Row:
    """Run a federation per codec and seed, and judge the last global encoder.

    Args:
        data: of `compression_data.DATA`.
        methods: of METHODS, or of BESIDE: `random` weights, and `centralised`, one learner with all data that takes as
            many steps as all devices together and is then frozen.
        seeds: of samples, weights and noise.
        out: file that is written after every run, and continued if it exists; "" writes none.
        progress: told in a line what was done.
        settings: of `Settings`.

    Returns:
        {"bench", "settings", "rows", "date", "machine", "versions"}. A row: data, method, seed, level ("A", in one
        process), clients, parameters; knn: 20-nearest-neighbour accuracy in percent; bytes_up_per_update,
        bytes_down_per_update: of a message on the wire, on average; bytes: of all; failures; seconds of processor time.

    Raises:
        ConfigError: an unknown name, or `out` was measured with other settings.
    """
    known = (*BESIDE, *METHODS)
    for kind, names, asked in (("data", DATA, data), ("method", known, methods)):
        if unknown := [name for name in asked if name not in names]:
            raise ConfigError(f"unknown {kind} {unknown[0]!r}; choose among {'; '.join(names)}")
    chosen = Settings(**settings)
    result = start("federated_compression", asdict(chosen), out)
    done = {tuple(row[k] for k in KEY) for row in result["rows"]}
    torch.set_num_threads(1)
    for seed in seeds:
        for name in data:
            for method in methods:
                if (name, method, seed) not in done:
                    result["rows"].append(measure(name, method, seed, chosen))
                    last = result["rows"][-1]
                    progress(f"{name}, {method}, {seed}: {last['knn']:.1f}, {last['bytes']:,} bytes")
                    keep(out, result)
    return result


def table(result: Row) -> str:
    """The result as Markdown, one line per data and method; means and sample standard deviations over the seeds.

    "against whole" is the difference of the same seed's runs; "fewer" how many times fewer bytes, down and up together.
    """
    lines = [
        "| data | codec, both ways | kNN | against whole | bytes up | bytes down | fewer |",
        "|---|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(row["data"] for row in result["rows"]):
        by_method: dict[str, dict[int, Row]] = {}
        for row in result["rows"]:
            if row["data"] == data:
                by_method.setdefault(row["method"], {})[row["seed"]] = row
        for method in (name for name in (*BESIDE, *METHODS) if name in by_method):
            rows = by_method[method]
            whole = by_method.get("whole", {})
            off = [row["knn"] - whole[seed]["knn"] for seed, row in rows.items() if seed in whole]
            cells = [spread([row["knn"] for row in rows.values()]), spread(off, sign="+"), "–", "–", "–"]
            if method in METHODS:
                up, down = (
                    np.mean([row[f"bytes_{way}_per_update"] for row in rows.values()]) for way in ("up", "down")
                )
                fewer = np.mean([whole[seed]["bytes"] / row["bytes"] for seed, row in rows.items() if seed in whole])
                cells[2:] = [f"{up:,.0f}", f"{down:,.0f}", f"{fewer:.1f}"]
            lines.append(f"| {data} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(name: str, method: str, seed: int, settings: Settings) -> Row:
    """One row."""
    began, found = time.process_time(), fleet(name, seed)
    model = model_of(found, settings, seed)
    theta, records = model.state()["theta"], list[Row]()
    with TemporaryDirectory(prefix="edgessl-compression-") as folder, ExitStack() as stack:
        parts = found.devices if method in METHODS else [np.concatenate(found.devices)]
        learners = [] if method == "random" else learners_of(model, parts, Path(folder), seed, stack)
        if method == "centralised":
            learners[0].learn(max_steps=settings.rounds * found.local_steps * len(found.devices))
            theta = learners[0].theta
        elif method in METHODS:
            theta, records = _federate(model, learners, method, settings.rounds, found.local_steps)
    messages = max(1, sum(record["clients"] for record in records))
    up, down = (sum(record[key] for record in records) for key in ("bytes_up", "bytes_down"))
    return {
        "data": name,
        "method": method,
        "seed": seed,
        "level": "A",
        "clients": len(found.devices),
        "parameters": model.manifest.theta_size,
        "knn": accuracy(model, theta, found),
        "bytes_up_per_update": round(up / messages),
        "bytes_down_per_update": round(down / messages),
        "bytes": up + down,
        "failures": sum(len(record["failures"]) for record in records),
        "seconds": round(time.process_time() - began, 1),
    }


def accuracy(model: TorchModel, theta: Float, found: Fleet) -> float:
    """20-nearest-neighbour accuracy in percent of weights (P,), among all devices' samples."""
    encoder, _ = model.runners(SessionProfile())
    bank, test = (embed(encoder, theta, x) for x in (np.concatenate(found.devices), found.test))
    return round(100 * float((knn_predict(bank, found.labels, test) == found.test_labels).mean()), 2)


def model_of(found: Fleet, settings: Settings, seed: int) -> TorchModel:
    """A new network for the fleet, with the step that its devices train."""
    recipe = parse_recipe(
        {
            "encoder": {"name": found.encoder, "options": found.options},
            "objective": {"name": settings.objective},
            "optimizer": found.optimizer,
            "batch_size": settings.batch_size,
            "epochs": 1,
            "seed": seed,
        }
    )
    x = np.concatenate(found.devices)
    axes = (0, *range(2, x.ndim))
    mean, std = (tuple(float(v) for v in f(axis=axes)) for f in (x.mean, x.std))
    spec = InputSpec(found.kind, x.shape[1:], mean, std, "as recorded")
    step = build_step(recipe, spec)
    return TorchModel(recipe, spec, step, step.initial_state(), batch_size=settings.batch_size, hyper=step.hyper)


def learners_of(model: TorchModel, parts: Sequence[Float], folder: Path, seed: int, stack: ExitStack) -> list[Learner]:
    """One per part, whose memory holds all of it."""
    learners = open_learners(model, [2 * part.nbytes for part in parts], folder, seed, stack)
    for learner, part in zip(learners, parts, strict=True):
        for j in range(0, len(part), 256):
            learner.observe(part[j : j + 256])
    return learners


def _federate(
    model: TorchModel, learners: list[Learner], method: str, rounds: int, local_steps: int
) -> tuple[Float, list[Row]]:
    """The last global weights and the rounds' records."""
    from federated.codecs.link import FOLDER, DeviceLink

    codec, feedback = METHODS[method]

    def owe_nothing(device: int) -> None:
        if not feedback:
            link = DeviceLink(learners[device].directory / FOLDER, model.digest)
            link.settle()
            link.save()
            link.close()

    settings = {"rounds": rounds, "codec": codec, "downlink": codec}
    return federate(model, learners, local_steps, settings, after=owe_nothing)
