"""Does federated learning help, and which rule most? Devices that each see their own classes, of two data sets.

After table 3 of Zhuang et al., ICLR 2022 (5 clients, each with a fifth of the classes, BYOL), cut down to what a CPU
does in minutes (protocol "small": a small network, a few thousand images, 15 rounds), or, on a GPU, as published but
for the data, of which there is a fifth. So it is the order that can be compared, not the numbers. Rules and mean are
those of `federated`; messages, which change nothing, are left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from edgessl.bench.federated.embedding import embed
from edgessl.bench.federated.order_data import DATA, Shards, shards
from edgessl.bench.results import keep, start
from edgessl.continual.judge import ridge_predict
from edgessl.continual.torch_runtime import TorchModel
from edgessl.device import SessionProfile
from edgessl.device.bundle.specs import InputSpec
from edgessl.errors import ConfigError
from edgessl.evaluate.neighbours import knn_predict
from edgessl.recipe import build_step, parse_recipe
from federated.message import EXAMPLES, Update
from federated.rules import Memory, parse_rule, rule_config
from federated.strategies import StreamingFedAvg

Row = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]
METHODS = ("random", "standalone", "fedavg", "fedu", "fedema", "fedx", "centralised")
KEY = ("data", "method", "seed")


@dataclass(frozen=True)
class Settings:
    """What the figures depend on; learning rate, decays, tau and threshold are the papers'."""

    rounds: int = 15
    local_steps: int = 20
    batch_size: int = 32
    encoder: str = "ds_cnn_s"
    options: Mapping[str, Any] = field(default_factory=lambda: {"stem_stride": 2})  # of the encoder
    optimizer: str = "sgd"
    lr: float = 0.032  # falls to 0 as a cosine over the rounds
    weight_decay: float = 5e-4
    teacher_decay: float = 0.99
    tau: float = 0.7  # of fedema
    threshold: float = 0.4  # of fedu
    validate: bool = False  # judge on samples of the train part that no device has
    device: str = "cpu"
    precision: str = "float32"  # of the networks while they are trained


PROTOCOLS = {  # 75 steps: five epochs of the 2,000 images that a device has of cifar100_fine
    "small": Settings(),
    "published": Settings(100, 75, 128, "resnet18", {"norm": "batch"}, device="cuda", precision="bfloat16"),
}


def run(
    data: str | Sequence[str] = ("fashion_mnist", "cifar100_sub"),
    methods: str | Sequence[str] = METHODS,
    seeds: int | Sequence[int] = (0, 1, 2),
    *,
    protocol: str = "small",
    out: str = "",
    progress: Callable[[str], None] = lambda line: None,
    **changes: Any,
) -> Row:
    """Train fleets, single devices and one model on all data, and judge their encoders.

    Args:
        data: of `order_data.DATA`.
        methods: of METHODS: random weights; `standalone`, each device on its own (the mean of all); the rules of
            `federated.rules` under FedAvg, `fedx` with its terms beside BYOL's loss at the authors' weight 1 and
            temperature 0.1; `centralised`, one learner with everything and as many steps as all devices take together.
        seeds: of samples, weights and noise.
        protocol: of PROTOCOLS; "published" is for the data `cifar100_fine` and needs a GPU.
        out: file that is written after every run, and continued if it exists; "" writes none.
        progress: told in a line what was done.
        changes: other values than the protocol's, by the names of `Settings`.

    Returns:
        {"bench", "settings", "rows", "date", "machine", "versions"}. A row: data, method, seed; knn, linear: accuracy
        in percent of the global encoder (of `standalone`, of the devices' on average); client_knn, the mean of
        the devices' own encoders on all classes; seconds of processor time.

    Raises:
        ConfigError: an unknown name, or `out` was measured with other settings.
    """
    data, methods = ((names,) if isinstance(names, str) else names for names in (data, methods))
    seeds = (seeds,) if isinstance(seeds, int) else seeds
    named = ("data", DATA, data), ("method", METHODS, methods), ("protocol", PROTOCOLS, [protocol])
    for kind, known, asked in (*named, ("setting", asdict(Settings()), changes)):
        if unknown := [name for name in asked if name not in known]:
            raise ConfigError(f"unknown {kind} {unknown[0]!r}; choose among {', '.join(known)}")
    chosen = replace(PROTOCOLS[protocol], **changes)
    result = start("federated_order", asdict(chosen), out)
    done = {tuple(row[k] for k in KEY) for row in result["rows"]}
    torch.set_num_threads(1)
    for name in data:
        for seed in seeds:
            for method in methods:
                if (name, method, seed) not in done:
                    result["rows"].append(measure(name, method, seed, chosen))
                    last = result["rows"][-1]
                    progress(f"{name}, {method}, {seed}: {last['knn']:.1f} in {last['seconds']:.0f} s")
                    keep(out, result)
    return result


def measure(name: str, method: str, seed: int, settings: Settings) -> Row:
    """One row."""
    began, found = time.process_time(), shards(name, seed, settings.validate)
    model = _model(found, settings, seed, "fedx" if method == "fedx" else None)
    fleet, own = model.state()["theta"], list[Array]()
    if method in ("standalone", "centralised"):
        parts = found.devices if method == "standalone" else [np.concatenate(found.devices)]
        steps = settings.local_steps * len(found.devices) // len(parts)
        devices = [_Device(model, part, 100 * seed + i) for i, part in enumerate(parts)]
        for device in devices:
            for number in range(1, settings.rounds + 1):
                device.learn(steps, _rate(settings, number))
        own = [device.theta for device in devices]
    elif method != "random":
        devices = [_Device(model, part, 100 * seed + i) for i, part in enumerate(found.devices)]
        fleet = _federate(model, devices, method, settings)
        own = [device.theta for device in devices]
    encoder, _ = model.runners(SessionProfile())

    def judge(theta: Array) -> tuple[float, float]:
        bank, test = (embed(encoder, theta, x) for x in (np.concatenate(found.devices), found.test))
        right = [p(bank, found.labels, test) == found.test_labels for p in (knn_predict, ridge_predict)]
        return 100 * float(right[0].mean()), 100 * float(right[1].mean())

    judged = [judge(theta) for theta in own]
    figures = np.mean(judged, axis=0) if method in ("standalone", "centralised") else judge(fleet)
    return {
        "data": name,
        "method": method,
        "seed": seed,
        "knn": round(float(figures[0]), 2),
        "linear": round(float(figures[1]), 2),
        "client_knn": round(float(np.mean([k for k, _ in judged])), 2) if judged else None,
        "seconds": round(time.process_time() - began, 1),
    }


class _Device:
    """Steps on samples (N, *shape) drawn without repeats until all were seen; state stays from round to round.

    A Learner without its guard, which is made for encoders that were pretrained: from random weights the embeddings'
    effective rank soon falls below a quarter of the first steps', and the guard takes that for a collapse.
    """

    def __init__(self, model: TorchModel, samples: Array, seed: int) -> None:
        self.memory = Memory()
        self._trainer = model.runners(SessionProfile())[1]
        self._samples, self._manifest = samples, model.manifest
        self._rng, self._order = np.random.default_rng(seed), np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def theta(self) -> Array:
        """A copy of the flat weights (P,)."""
        return self._trainer.theta.cpu().numpy().copy()

    def adopt(self, theta: Array, fleet: Array) -> None:
        """Take these weights; slot `fleet`, where the step has one, becomes the fleet's, every other slot stays."""
        state = {**self._trainer.state(), "theta": theta}
        self._trainer.load({**state, "fleet": fleet} if "fleet" in state else state)

    def learn(self, steps: int, lr: float) -> None:
        """Take steps at that rate."""
        size = self._manifest.batch_size
        for _ in range(steps):
            if len(self._order) < size:
                self._order = self._rng.permutation(len(self._samples))
            rows, self._order = self._order[:size], self._order[size:]
            noise = self._rng.random(self._manifest.noise_shape, np.float32)
            self._trainer.step(self._samples[rows], noise, {**self._manifest.hyper, "lr": lr})


def _model(found: Shards, settings: Settings, seed: int, strategy: str | None) -> TorchModel:
    recipe = parse_recipe(
        {
            "encoder": {"name": settings.encoder, "options": settings.options},
            "objective": {"name": "byol"},
            "strategy": {"name": strategy} if strategy else None,
            "optimizer": settings.optimizer,
            "hyper": {"lr": settings.lr},
            "batch_size": settings.batch_size,
            "epochs": 1,
            "seed": seed,
        }
    )
    x = np.concatenate(found.devices)
    mean, std = (tuple(float(v) for v in f(axis=(0, 2, 3))) for f in (x.mean, x.std))
    spec = InputSpec("image", x.shape[1:], mean, std, "[0, 1]")
    step = build_step(recipe, spec)
    hyper = {k: getattr(settings, k) for k in ("lr", "weight_decay", "teacher_decay")}
    return TorchModel(
        recipe,
        spec,
        step,
        step.initial_state(),
        batch_size=settings.batch_size,
        hyper=hyper,
        device=settings.device,
        autocast=torch.bfloat16 if settings.precision == "bfloat16" else None,
    )


def _federate(model: TorchModel, devices: list[_Device], method: str, settings: Settings) -> Array:
    """The last global weights (P,) of the rule called `method`, under FedAvg."""
    numbers = {"fedema": {"tau": settings.tau}, "fedu": {"threshold": settings.threshold}}
    rule, layout = parse_rule(rule_config(method, numbers.get(method))), model.manifest.parameters
    server, fleet = StreamingFedAvg(), model.state()["theta"]
    for number in range(1, settings.rounds + 1):
        updates = []
        for device in devices:
            before = rule.start(device.theta, fleet, number, device.memory, layout)
            device.adopt(before, fleet)
            device.learn(settings.local_steps, _rate(settings, number))
            rule.learned(before, device.theta, device.memory, layout)
            device.memory.round = number
            updates.append(Update(device.theta, number, {EXAMPLES: len(device)}))
        mean, _ = server.aggregate(number, fleet, updates)
        assert mean is not None
        fleet = mean
    return fleet


def _rate(settings: Settings, number: int) -> float:
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (number - 1) / settings.rounds))
