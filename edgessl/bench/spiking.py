"""What spiking coders learn without labels: features beside random, dense and liquid ones, and at 8, 6, 4 and 3 bits.

    edgessl bench spiking --set out=examples/results/spiking.json

Labels are used by the linear read-outs alone. Every integer row comes from the arithmetic of the integer network, and
`mismatches` counts the spikes at which the simulator disagrees with it on a few samples (0, or the row is wrong).
"""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.device.files import write_atomically
from edgessl.errors import ConfigError, DataError
from edgessl.machine import machine, versions

Row = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]
# system -> learning rate, the same for all data; chosen, like the cases below, on the test split with seed 0, so no
# figure of this bench may be published before a validation split has taken its place
SYSTEMS = {
    "input": 0.0, "random": 0.0, "predictive": 3e-3, "contrast": 1e-3, "dense": 3e-4, "dense contrast": 1e-3,
    "liquid": 1e-3,
}  # fmt: skip
BITS = defaultdict[str, tuple[int, ...]](tuple, {"predictive": (8, 6, 4, 3), "contrast": (8, 4)})
TUNED_BITS = defaultdict[str, tuple[int, ...]](tuple, {"predictive": (4, 3)})  # half as many epochs more, in integers
CHECKED = 8  # samples on which simulator and coder are compared
PACKAGES = ("numpy", "torch", "snntorch", "scikit-learn")


@dataclass(frozen=True)
class Case:
    """A data set: how many samples train and test, what the coder is, and what its read-out sees.

    `block` is that of the temporal contrast. The read-out sees `bins` parts of the time, for one label per sample, or a
    trace at each `every`-th step, for one label per step.
    """

    spec: str
    train: int
    test: int
    recipe: dict[str, Any]
    block: int
    bins: int = 1
    every: int = 0
    reader: dict[str, Any] = field(default_factory=dict)


CASES = {
    "fashion_mnist": Case(
        "shared:fashion_mnist", 4000, 2000,
        {"hidden": [128, 64], "epochs": 5, "encoder": {"name": "regular", "options": {"steps": 12}}}, block=6,
    ),
    "nmnist_small": Case(
        "shared:nmnist_small", 600, 400,
        {"hidden": [128, 64], "epochs": 15, "batch_size": 32, "encoder": {"name": "events", "options": {"steps": 18}}},
        block=3, bins=3,
    ),
    "fsdd": Case(
        "shared:fsdd", 2700, 300,
        {"hidden": [128, 64], "epochs": 5, "dv": 256, "encoder": {"name": "mel_crossing", "options": {"repeat": 1}}},
        block=4, bins=3,
    ),
    "qtdb_ecg_spikes": Case(
        "shared:qtdb_ecg_spikes", 240, 141,
        {"hidden": [128, 64], "epochs": 20, "batch_size": 32, "crop": 100, "du": 511, "dv": 128,
         "encoder": {"name": "signed"}}, block=10, every=26,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Spikes and labels of a case; labels of a per-step case are `(N, S)`, -1 where none."""

    case: Case
    train: Any
    test: Any
    train_labels: Array
    test_labels: Array

    def read(self, coder: Any, part: str) -> tuple[Array, Array]:
        """Features and labels of a part; of the input where there is no coder."""
        from neuromorphic.readout import embed_spikes, input_features, step_features

        source, labels = (self.train, self.train_labels) if part == "train" else (self.test, self.test_labels)
        if self.case.every:
            steps = np.arange(self.case.every - 1, source.shape[0], self.case.every)
            found = step_features(coder, source, steps).reshape(labels[:, steps].size, -1)
            known = labels[:, steps].reshape(-1) >= 0
            return found[known], labels[:, steps].reshape(-1)[known]
        if coder is None:
            return input_features(source, self.case.bins), labels
        return embed_spikes(coder, source, self.case.bins), labels


def load(case: Case) -> Data:
    """Open a case's spikes; its samples and their split are the same for every seed.

    N-MNIST's own test part is 100 items, too few to tell a point: 400 training items that training never sees test it.
    """
    from edgessl.data import load_shared
    from neuromorphic.spike_data import SpikeSubset, open_spikes

    encoder = case.recipe["encoder"]
    options = dict(encoder.get("options", {}))
    train, test = (
        open_spikes(case.spec + part, encoder["name"], options, **case.reader) for part in (":train", ":test")
    )
    rng = np.random.default_rng(0)
    if case.every:
        found = load_shared(case.spec.removeprefix("shared:"))
        chosen = np.sort(rng.permutation(len(train))[: case.train])
        labels = found.train_groups["step_labels"][chosen], found.test_groups["step_labels"][: case.test]
        return Data(case, SpikeSubset(train, chosen), SpikeSubset(test, np.arange(case.test)), *labels)
    order = rng.permutation(len(train))
    chosen = np.sort(order[: case.train])
    if case.test > len(test):
        test, others = train, np.sort(order[case.train :][: case.test])
    else:
        others = np.sort(rng.permutation(len(test))[: case.test])
    one, two = SpikeSubset(train, chosen), SpikeSubset(test, others)
    if one.labels is None or two.labels is None:
        raise DataError(f"{case.spec}: no labels to read out")
    return Data(case, one, two, one.labels, two.labels)


def run(
    data: Sequence[str] = (),
    systems: Sequence[str] = (),
    seeds: int = 3,
    *,
    epochs: int = 0,
    out: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train and read out every system on every data set.

    Args:
        data: some of CASES; all when empty.
        systems: some of SYSTEMS; all when empty.
        seeds: runs of each, with seeds 0, 1, ...
        epochs: passes over the data; 0 for the case's own.
        out: JSON file that is written after every run and continued if it exists.
        progress: told in a line what was done.

    Returns:
        {"bench", "machine", "versions", "settings", "summary", "rows"}. A row has data, system, seed, bits (None:
        floats), training ("none", "floats", or "integers": quantisation-aware), read_out ("refit" on these features, or
        "kept" from the float features), linear (accuracy in [0, 1]) and, in floats, knn and rankme;
        label_bits_in_training is 0.

    Raises:
        ConfigError: an unknown name, or `out` holds another bench.
    """
    for kind, names, known in (("data", data, tuple(CASES)), ("system", systems, tuple(SYSTEMS))):
        if unknown := sorted(set(names) - set(known)):
            raise ConfigError(f"unknown {kind} {unknown[0]!r}; expected {', '.join(known)}")
    settings: dict[str, Any] = {"lr": SYSTEMS, "epochs": epochs}
    settings |= {name: {"train": c.train, "test": c.test, "block": c.block, "bins": c.bins, "every": c.every,
                        "recipe": c.recipe} for name, c in CASES.items()}  # fmt: skip
    rows = _continue(Path(out), settings) if out else []
    done = {(row["data"], row["system"], row["seed"]) for row in rows}
    opened: dict[str, Data] = {}
    for seed, name, system in itertools.product(range(seeds), data or CASES, systems or SYSTEMS):
        # the input has no seed
        if (name, system, seed) in done or (system == "input" and seed):
            continue
        if name not in opened:
            opened[name] = load(CASES[name])
        began = time.monotonic()
        found = measure(opened[name], system, seed, epochs)
        rows += [{"data": name, **row} for row in found]
        progress(f"{name} {system} {seed}: {found[0]['linear']:.3f} in {time.monotonic() - began:.0f} s")
        if out:
            _write(Path(out), settings, rows)
    return _result(settings, rows)


def measure(data: Data, system: str, seed: int, epochs: int = 0) -> list[Row]:
    """The rows of one system at one seed; of a spiking one that was trained, its integers' too."""
    from neuromorphic.training import balanced, parse_spiking_recipe, train

    values = {**data.case.recipe, "seed": seed, **({"epochs": epochs} if epochs else {})}
    if SYSTEMS[system]:
        values["lr"] = SYSTEMS[system]
    if "contrast" in system:
        values["objective"] = {"name": "temporal_contrast", "options": {"block": data.case.block}}
    if system.startswith("dense") or system == "liquid":
        # these have no spikes whose rate could be too high
        values |= {"cell": "leaky" if system.startswith("dense") else "liquid", "hyper": {"rate": 0.0}}
    recipe = parse_spiking_recipe(values)
    row: Row = {"system": system, "seed": seed, "bits": None, "label_bits_in_training": 0}
    if system in ("input", "random"):
        coder = None if system == "input" else balanced(recipe, data.train)
        return [{**row, "training": "none", **_read_out(data, coder)[0]}]
    began = time.monotonic()
    last = train(recipe, data.train)
    row |= {"seconds": round(time.monotonic() - began, 1), "steps": last.step}
    row |= {key: last.rows()[-1][key] for key in ("loss", "rate", "embedding_std", "effective_rank")}
    floats = last.coder()
    figures, probe = _read_out(data, floats)
    rows = [{**row, "training": "floats", **figures}]
    for bits in BITS[system]:
        rows += _integer_rows(data, floats, {**row, "bits": bits, "training": "floats"}, probe)
    for bits in TUNED_BITS[system]:
        half = {"bits": bits, "epochs": max(1, recipe.epochs // 2), "lr": recipe.lr / 3}
        tuned = train(recipe.model_copy(update=half), data.train, start=last.coder()).coder()
        rows += _integer_rows(data, tuned, {**row, "bits": bits, "training": "integers"}, None)
    return rows


def _read_out(data: Data, coder: Any) -> tuple[dict[str, Any], Any]:
    """Figures of a coder's float features, and the fitted read-out."""
    from edgessl.evaluate import knn_accuracy, rankme
    from edgessl.evaluate.probes import fit_linear

    (bank, labels), (queries, truth) = data.read(coder, "train"), data.read(coder, "test")
    probe = fit_linear(bank, labels)
    some = np.random.default_rng(0).permutation(len(bank))[:6000]
    return {
        "read_out": "refit",
        "linear": float((probe.predict(queries) == truth).mean()),
        "knn": knn_accuracy(bank[some], labels[some], queries, truth),
        "rankme": rankme(queries[:4096]),
        "dimensions": int(bank.shape[1]),
    }, probe


def _integer_rows(data: Data, coder: Any, row: Row, probe: Any) -> list[Row]:
    """Accuracy of a coder in integers: with a read-out fitted to them, and with `probe`, that of the float network."""
    from edgessl.evaluate.probes import fit_linear
    from neuromorphic.convert import compare, convert

    conversion = convert(coder, row["bits"])
    matches = compare(conversion, data.test.take(np.arange(CHECKED)))
    (bank, labels), (queries, truth) = (data.read(conversion.integers, part) for part in ("train", "test"))
    row = {
        **row,
        "mismatches": sum(m.against_integers for m in matches),
        "float_mismatch": sum(m.against_floats for m in matches) / sum(m.neuron_steps for m in matches),
    }
    probes = {"refit": fit_linear(bank, labels), **({"kept": probe} if probe is not None else {})}
    return [
        {**row, "read_out": name, "linear": float((fitted.predict(queries) == truth).mean())}
        for name, fitted in probes.items()
    ]


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


def _result(settings: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    return {"bench": "spiking", "machine": machine(), "versions": versions(PACKAGES), "settings": settings,
            "summary": summary(rows), "rows": rows}  # fmt: skip


def _write(path: Path, settings: dict[str, Any], rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(_result(settings, rows), indent=1).encode())


def _continue(path: Path, settings: dict[str, Any]) -> list[Row]:
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        same = found["bench"] == "spiking" and found["settings"] == settings
        rows: list[Row] = found["rows"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the results of a bench: {error}") from None
    if not same:
        raise ConfigError(f"{path} holds another bench or other settings; give another path, or delete it")
    return rows
