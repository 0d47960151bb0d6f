"""A fleet whose data change under it: continual strategies x rules of the fleet, beside no fleet and one big device.

The protocol is in docs/federated_continual.md. Everything is real but the network: Learners with memory, drift monitor
and guard, Flower's messages, `train_round`, the server's rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from edgessl.bench.continual.contenders import CONTENDERS
from edgessl.bench.federated.continual_data import SCENARIOS, Problem, problem
from edgessl.bench.federated.embedding import embed
from edgessl.bench.federated.fleets import federate, open_learners
from edgessl.bench.results import keep, start
from edgessl.checkpoint import Checkpoint
from edgessl.continual.device_step import device_step
from edgessl.continual.judge import Judge, Verdict
from edgessl.continual.life import JOINT
from edgessl.continual.metrics import summarize
from edgessl.continual.torch_runtime import TorchModel
from edgessl.device import Learner, SessionProfile, step_noise
from edgessl.errors import ConfigError
from edgessl.pretrain import pretrain
from edgessl.recipe import Part, build_step, parse_recipe

Row = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]

OBJECTIVE, BATCH, STEPS, MEMORY = "vicreg", 32, 6, 128  # as `continual bench`: steps per chunk, samples remembered
STRATEGIES = {"finetune": "finetune", "replay": "replay-reservoir", "distill": "cassle"}  # -> its contenders
FLEETS = ("fedavg", "fedema")
METHODS = (*FLEETS, "standalone", "centralised")
REFERENCES = ("random", "frozen", "joint")
KEY = ("scenario", "method", "strategy", "seed")


def run(
    scenarios: str | Sequence[str] = tuple(SCENARIOS),
    methods: str | Sequence[str] = METHODS,
    strategies: str | Sequence[str] = tuple(STRATEGIES),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    out: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> Row:
    """Let fleets live through streams that change, and judge what their encoders kept.

    Args:
        scenarios: of `continual_data.SCENARIOS`.
        methods: of METHODS: the rule of a fleet; `standalone`, each device alone; `centralised`, one learner that meets
            what all devices meet, with as many steps and as much memory as all of them. REFERENCES are always measured:
            the encoder's random and factory weights, and training on all samples at once.
        strategies: of STRATEGIES.
        seeds: of samples, weights and noise.
        out: file that is written after every run, and continued if it exists; "" writes none.
        progress: told in a line what was done.

    Returns:
        {"bench", "settings", "rows", "date", "machine", "versions"}; a row is that of `measure`.

    Raises:
        ConfigError: an unknown name, or `out` was measured with other settings.
    """
    scenarios, methods, strategies = (
        (names,) if isinstance(names, str) else tuple(names) for names in (scenarios, methods, strategies)
    )
    for kind, known, asked in (
        ("scenario", SCENARIOS, scenarios), ("method", METHODS, methods), ("strategy", STRATEGIES, strategies)
    ):  # fmt: skip
        if unknown := [name for name in asked if name not in known]:
            raise ConfigError(f"unknown {kind} {unknown[0]!r}; choose among {', '.join(known)}")
    torch.set_num_threads(1)
    result = start("federated_continual", _settings(), out)
    done = {tuple(row[k] for k in KEY) for row in result["rows"]}
    pairs = [(method, "-") for method in REFERENCES] + [(m, s) for m in methods for s in strategies]
    for seed in seeds:
        for scenario in scenarios:
            for method, strategy in pairs:
                if (scenario, method, strategy, seed) in done:
                    continue
                row = measure(scenario, method, strategy, seed)
                result["rows"].append(row)
                progress(f"{scenario}, {method}, {strategy}, {seed}: {row['knn']:.1f} in {row['seconds']:.0f} s")
                keep(out, result)
    return result


def measure(scenario: str, method: str, strategy: str, seed: int) -> Row:
    """One row.

    Percent: knn, linear: pooled accuracy at the end, of the fleet's weights (standalone: of the devices', on average);
    forgetting, learned: by kNN, over each device's own order of contexts, averaged over devices; own_knn: at the end,
    of the weights that each device of a fleet has itself. matrices: by kNN, (T + 1, T) for every encoder judged, rows
    by time, columns by context. refused: replies that made no part of a round. seconds: of processor time.
    """
    began = time.process_time()
    found, checkpoint, judge = prepared(scenario, seed)
    verdicts: list[list[Verdict]]
    own, records = list[float](), list[Row]()
    with TemporaryDirectory(prefix="edgessl-federated-continual-") as folder, ExitStack() as stack:
        if method in REFERENCES:
            verdicts = [_reference(method, found, checkpoint, judge, scenario, seed)]
        else:
            model = _model(checkpoint, strategy, scenario)
            streams = found.streams
            if method == "centralised":
                streams = [[np.concatenate(chunks) for chunks in zip(*streams, strict=True)]]
            memories = [MEMORY * stream[0].nbytes // BATCH for stream in streams]  # by what comes in a round
            policy = CONTENDERS[STRATEGIES[strategy]].policy
            learners = open_learners(model, memories, Path(folder), seed, stack, policy)
            steps, rounds = STEPS * len(found.streams) // len(streams), SCENARIOS[scenario].rounds
            if method in FLEETS:
                one, records = _federate(model, learners, streams, method, steps, rounds, judge)
                verdicts = [one]
                own = [float(judge.verdict(learner.embed)["knn"].mean()) for learner in learners]
            else:
                verdicts = [
                    _live(learner, stream, steps, rounds, judge)
                    for learner, stream in zip(learners, streams, strict=True)
                ]
    matrices = [np.stack([verdict["knn"] for verdict in one]) for one in verdicts]
    positions = [i * SCENARIOS[scenario].rounds * SCENARIOS[scenario].chunk for i in range(len(matrices[0]))]
    each = list(enumerate(found.orders))
    seen = [summarize(matrices[k if len(matrices) > 1 else 0][:, order], positions) for k, order in each]
    messages = max(1, sum(record["clients"] for record in records))
    return {
        "scenario": scenario,
        "method": method,
        "strategy": strategy,
        "seed": seed,
        "knn": _percent([summary.final_accuracy for summary in seen]),
        "linear": _percent([one[-1]["linear"].mean() for one in verdicts]),
        "forgetting": _percent([summary.forgetting for summary in seen]),
        "learned": _percent([summary.learned_accuracy for summary in seen]),
        "own_knn": _percent(own) if own else None,
        "level": "A",
        "clients": len(found.streams),
        "bytes_up_per_update": round(sum(record["bytes_up"] for record in records) / messages),
        "bytes_down_per_update": round(sum(record["bytes_down"] for record in records) / messages),
        "refused": sum(len(record["failures"]) for record in records),
        "matrices": [matrix.round(4).tolist() for matrix in matrices],
        "seconds": round(time.process_time() - began, 1),
    }


@lru_cache(maxsize=1)
def prepared(scenario: str, seed: int) -> tuple[Problem, Checkpoint, Judge]:
    """What all methods of a scenario and seed share: the samples, the factory's encoder, the judge."""
    found, wanted = problem(scenario, seed), SCENARIOS[scenario]
    recipe = parse_recipe(
        {
            "encoder": {"name": wanted.encoder, "options": dict(wanted.encoder_options)},
            "objective": {"name": OBJECTIVE},
            "optimizer": "adamw",
            "hyper": {"lr": wanted.lr},
            "batch_size": BATCH,
            "epochs": wanted.factory_epochs,
            "seed": seed,
        }
    )
    return found, pretrain(recipe, found.factory), Judge(found.bank, found.test)


def _model(checkpoint: Checkpoint, strategy: str, scenario: str) -> TorchModel:
    chosen = CONTENDERS[STRATEGIES[strategy]]
    part = None if chosen.strategy is None else Part(name=chosen.strategy, options=dict(chosen.options))
    step, state = device_step(checkpoint, strategy=part)
    recipe = checkpoint.recipe.model_copy(update={"strategy": part})
    hyper = {"lr": SCENARIOS[scenario].lr}
    return TorchModel(recipe, checkpoint.input, step, state, batch_size=BATCH, hyper=hyper)


def _federate(
    model: TorchModel,
    learners: list[Learner],
    streams: Sequence[list[Array]],
    rule: str,
    steps: int,
    rounds: int,
    judge: Judge,
) -> tuple[list[Verdict], list[Row]]:
    """The fleet's weights judged before, and after every context; the rounds' records."""
    from federated.rules import rule_config

    encoder, _ = model.runners(SessionProfile())
    factory = model.state()["theta"]
    verdicts = [judge.verdict(lambda x: embed(encoder, factory, x))]

    def on_round(record: Row, now: Array) -> None:
        if record["round"] % rounds == 0:
            verdicts.append(judge.verdict(lambda x: embed(encoder, now, x)))

    _, records = federate(
        model,
        learners,
        steps,
        {"rounds": len(streams[0])},
        before=lambda device, number: learners[device].observe(streams[device][number - 1]),
        on_round=on_round,
        client_config=rule_config(rule),
    )
    return verdicts, records


def _live(learner: Learner, stream: list[Array], steps: int, rounds: int, judge: Judge) -> list[Verdict]:
    """A learner on its own."""
    verdicts = [judge.verdict(learner.embed)]
    for number, samples in enumerate(stream, start=1):
        learner.observe(samples)
        learner.learn(max_steps=steps)
        if number % rounds == 0:
            verdicts.append(judge.verdict(learner.embed))
    return verdicts


def _reference(
    method: str, found: Problem, checkpoint: Checkpoint, judge: Judge, scenario: str, seed: int
) -> list[Verdict]:
    """A network that does not learn, or one that learns from all samples at once, as many steps as the fleet takes."""
    model = _model(checkpoint, "finetune", scenario)
    encoder, trainer = model.runners(SessionProfile())
    contexts = len(found.orders[0])
    if method != "joint":
        untrained = build_step(checkpoint.recipe, checkpoint.input).initial_state()["theta"].numpy()
        theta = untrained if method == "random" else model.state()["theta"]
        return [judge.verdict(lambda x: embed(encoder, theta, x))] * (contexts + 1)
    samples, rng = found.everything(), np.random.default_rng([seed, JOINT])
    verdicts = [judge.verdict(lambda x: embed(encoder, trainer.theta, x))]
    for context in range(contexts):
        for t in range(STEPS * SCENARIOS[scenario].rounds * len(found.streams)):
            batch = samples[rng.choice(len(samples), BATCH, replace=False)]
            trainer.step(batch, step_noise(seed, context << 20 | t, model.manifest.noise_shape), model.manifest.hyper)
        verdicts.append(judge.verdict(lambda x: embed(encoder, trainer.theta, x)))
    return verdicts


def _percent(values: Sequence[float]) -> float:
    return round(100 * float(np.mean(values)), 2)


def _settings() -> Row:
    scenarios = {
        name: {k: v for k, v in asdict(scenario).items() if isinstance(v, str | int | float | bool | dict)}
        for name, scenario in SCENARIOS.items()
    }
    shared = {"objective": OBJECTIVE, "optimizer": "adamw", "batch": BATCH, "steps": STEPS, "memory": MEMORY}
    return {**shared, "strategies": STRATEGIES, "scenarios": scenarios}
