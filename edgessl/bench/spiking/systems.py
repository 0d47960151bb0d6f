"""What the spiking bench compares: each system learns from unlabelled spikes, and a linear read-out judges it.

One number of every system that learns is chosen on validation samples, from `GRID`: the learning rate of a gradient, or
the exponent by which a local rule's products are shifted.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np

from edgessl.bench.spiking.data import Case, Data

Row = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]
RATES = (1e-3, 3e-3)
LOWER = (1e-4, 3e-4, 1e-3)  # without spikes, 3e-3 is too much
GRID: dict[str, tuple[float, ...]] = {
    "input": (), "random": (), "predictive": RATES, "contrast": RATES, "dense": LOWER, "dense contrast": LOWER,
    "liquid": LOWER, "stdp": (0.0, -2.0), "delta": (), "espp": (0.0, -1.0),
}  # fmt: skip
LOCAL = ("stdp", "delta", "espp")
BITS = defaultdict[str, tuple[int, ...]](tuple, {"predictive": (8, 4)})
TUNED_BITS = defaultdict[str, tuple[int, ...]](tuple, {"predictive": (4,)})  # half as many epochs more, in integers
CHECKED = 8  # samples on which simulator and coder are compared
ECHO_STEPS = 20_000  # of a stream that ESPP sees at most: its driver is Python, a step at a time
BALANCE_SAMPLES, BALANCE_RATE = 32, 0.1
HIDDEN = "hidden"


def measure(
    data: Data, system: str, seed: int, setting: float = 0.0, epochs: int = 0, integers: bool = True
) -> list[Row]:
    """The rows of one system at one seed and setting; of a spiking one that was trained, its integers' too.

    Args:
        data: whose training spikes teach, and whose read-outs judge.
        system: a key of GRID.
        seed: of weights and order.
        setting: the system's number, one of its GRID; 0 of a system without one.
        epochs: passes of a gradient over the data; 0 for the case's own. A local rule sees every sample once.
        integers: also convert what was trained in floats.
    """
    row: Row = {"system": system, "seed": seed, "setting": setting, "bits": None, "label_bits_in_training": 0}
    if system in LOCAL:
        return _local_rows(data, row)
    from neuromorphic.training import balanced, parse_spiking_recipe, train

    values = {**data.case.recipe, "seed": seed, **({"epochs": epochs} if epochs else {})}
    if setting:
        values["lr"] = setting
    if "contrast" in system:
        values["objective"] = {"name": "temporal_contrast", "options": {"block": data.case.block}}
    if system.startswith("dense") or system == "liquid":
        # these have no spikes whose rate could be too high
        values |= {"cell": "leaky" if system.startswith("dense") else "liquid", "hyper": {"rate": 0.0}}
    recipe = parse_spiking_recipe(values)
    if system in ("input", "random"):
        coder = None if system == "input" else balanced(recipe, data.train)
        return [{**row, "training": "none", **_judge(*_both(data, coder))[0]}]
    began = time.process_time()
    last = train(recipe, data.train)
    row |= {"seconds": round(time.process_time() - began, 1), "steps": last.step}
    row |= {key: last.rows()[-1][key] for key in ("loss", "rate", "embedding_std", "effective_rank")}
    floats = last.coder()
    figures, probe = _judge(*_both(data, floats))
    rows = [{**row, "training": "floats", **figures}]
    if not integers:
        return rows
    for bits in BITS[system]:
        rows += _integer_rows(data, floats, {**row, "bits": bits, "training": "floats"}, probe)
    for bits in TUNED_BITS[system]:
        half = {"bits": bits, "epochs": max(1, recipe.epochs // 2), "lr": recipe.lr / 3}
        tuned = train(recipe.model_copy(update=half), data.train, start=last.coder()).coder()
        rows += _integer_rows(data, tuned, {**row, "bits": bits, "training": "integers"}, None)
    return rows


def local_network(case: Case, system: str, n_in: int, seed: int, shift: int = 0) -> Any:
    """The integer network of a local rule, as many hidden neurons as the case's coder has, before it learns."""
    from neuromorphic.espp import echo_network
    from neuromorphic.local import competitive, predictive_coding, soft_stdp_rule

    n = sum(case.recipe["hidden"])
    if system == "stdp":
        return competitive(n_in, n, rule=soft_stdp_rule(-3 + shift, -5 + shift, seed=seed + 1), seed=seed)
    if system == "delta":
        return predictive_coding(
            n_in, n, feedback="kolen_pollack", shift=6, event=2, exponent=case.drive, seed=seed
        )  # fmt: skip
    return echo_network(n_in, n, rate=-6 + shift, seed=seed)


def learn_locally(network: Any, spikes: Array, parts: int) -> Any:
    """The network after one pass over `spikes` (N, T, n), by its own rules; ESPP sees recordings cut into `parts`."""
    from neuromorphic.espp import APART, EchoLearner, adjacency, windows
    from neuromorphic.plastic import learn_from, relearned

    if APART not in [i.name for i in network.inputs]:
        return learn_from(network, np.array_split(spikes, -(-len(spikes) // 50)))
    learner = EchoLearner(network)
    cut, recording = windows(spikes[: max(1, ECHO_STEPS // spikes.shape[1])], parts)
    for window, goes_on in zip(cut, adjacency(recording), strict=True):
        learner.present(window, bool(goes_on))
    return relearned(network, learner.weights())


def _local_rows(data: Data, row: Row) -> list[Row]:
    """Before and after local learning; the weights are integers of 8 bits and a sign throughout.

    A rule moves the rate at which neurons fire, so thresholds are balanced again, on the same unlabelled samples.
    """
    from neuromorphic.plastic import balance

    rng = np.random.default_rng(row["seed"])
    spikes = data.train.take(rng.permutation(len(data.train)))
    network = local_network(data.case, row["system"], data.train.shape[1], row["seed"], int(row["setting"]))
    network = balance(network, spikes[:BALANCE_SAMPLES], BALANCE_RATE)
    rows = []
    for training in ("none", "local"):
        began = time.process_time()
        if training == "local":
            learned = learn_locally(network, spikes, data.case.parts)
            network = balance(learned, spikes[:BALANCE_SAMPLES], BALANCE_RATE)
        seconds = round(time.process_time() - began, 1)
        bank, queries = (data.read_integers(network, HIDDEN, part) for part in ("train", "test"))
        figures = {"rate": float(queries[0].mean()), **_judge(bank, queries)[0]}
        rows.append({**row, "bits": 8, "training": training, "seconds": seconds, **figures})
    return rows


def _both(data: Data, coder: Any) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    return data.read(coder, "train"), data.read(coder, "test")


def _judge(bank: tuple[Array, Array], queries: tuple[Array, Array]) -> tuple[Row, Any]:
    """Figures of features with labels, and the fitted read-out."""
    from edgessl.evaluate import knn_accuracy, rankme
    from edgessl.evaluate.probes import fit_linear

    probe = fit_linear(*bank)
    some = np.random.default_rng(0).permutation(len(bank[0]))[:6000]
    return {
        "read_out": "refit",
        "linear": float((probe.predict(queries[0]) == queries[1]).mean()),
        "knn": knn_accuracy(bank[0][some], bank[1][some], *queries),
        "rankme": rankme(queries[0][:4096]),
        "dimensions": int(bank[0].shape[1]),
    }, probe


def _integer_rows(data: Data, coder: Any, row: Row, probe: Any) -> list[Row]:
    """Accuracy of a coder in integers: with a read-out fitted to them, and with `probe`, that of the float network."""
    from edgessl.evaluate.probes import fit_linear
    from neuromorphic.convert import compare, convert

    conversion = convert(coder, row["bits"])
    matches = compare(conversion, data.test.take(np.arange(CHECKED)))
    bank, (queries, truth) = _both(data, conversion.integers)
    row = {
        **row,
        "mismatches": sum(m.against_integers for m in matches),
        "float_mismatch": sum(m.against_floats for m in matches) / sum(m.neuron_steps for m in matches),
    }
    probes = {"refit": fit_linear(*bank), **({"kept": probe} if probe is not None else {})}
    return [
        {**row, "read_out": name, "linear": float((fitted.predict(queries) == truth).mean())}
        for name, fitted in probes.items()
    ]
