"""Classes that come one after another, learned by local rules without replay: accuracy and forgetting.

    edgessl bench spiking_continual --set out=examples/results/spiking_continual.json

Streams, samples, order, judge and figures are those of `edgessl continual bench`, so that rows stand beside the dense
strategies' of the same stream and seed. Every sample is presented once, as spikes at a rate of its intensity; nothing
of it is kept. Firing thresholds are balanced at the start on factory samples, and again after each chunk on that chunk.
The factory samples, on which the dense encoder is pretrained, teach first, by the same rule.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgessl.bench.continual.streams import Problem, problem
from edgessl.bench.results import keep, taken_up
from edgessl.bench.spiking.data import Case
from edgessl.bench.spiking.systems import BALANCE_RATE, BALANCE_SAMPLES, HIDDEN, LOCAL, learn_locally, local_network
from edgessl.continual.judge import KINDS, Judge
from edgessl.continual.metrics import mean_and_std, summarize
from edgessl.continual.streams import Stream
from edgessl.errors import ConfigError, DataError
from edgessl.machine import machine, versions

Row = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]
STREAMS = ("split_fashion", "nmnist")
SYSTEMS = ("frozen", *LOCAL)
GAIN = {"split_fashion": 0.5, "nmnist": 1.0}  # event counts are small: at 0.5 most cells would never fire
STEPS, CHUNK = 12, 32
SHIFT = {"stdp": 0, "delta": 0, "espp": -1}
# a shape for `local_network`: its hidden sizes add up to 192 neurons, and ESPP cuts a sample into two windows
CASE = Case("", 0, 0, {"hidden": [128, 64]}, block=0, parts=2)
PROTOTYPES, NOVELTY = 500, 0.5
FIGURES = ("final_accuracy", "average_accuracy", "forgetting", "backward_transfer", "learned_accuracy")


def run(
    streams: Sequence[str] = (),
    systems: Sequence[str] = (),
    seeds: int = 3,
    *,
    out: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run every system over every stream.

    Args:
        streams: some of STREAMS; all when empty.
        systems: some of SYSTEMS; all when empty. "frozen" is the network of ESPP with its first weights.
        seeds: runs of each, with seeds 0, 1, ...
        out: JSON file that is written after every run and continued if it exists.
        progress: told in a line what was done.

    Returns:
        {"bench", "machine", "versions", "settings", "summary", "rows"}. A row has stream, system, seed, and accuracy
        matrices (T + 1, T) with their figures: by the judge's KINDS, and "prototypes", the device's own read-out, which
        heard each label once, as its sample came, and keeps a bounded number of prototypes.

    Raises:
        ConfigError: an unknown name.
        DataError: `out` holds something else.
    """
    for kind, names, known in (("stream", streams, STREAMS), ("system", systems, SYSTEMS)):
        if unknown := sorted(set(names) - set(known)):
            raise ConfigError(f"unknown {kind} {unknown[0]!r}; expected {', '.join(known)}")
    rows = taken_up(out, {"bench": "spiking_continual", "settings": _settings()})
    done = {(row["stream"], row["system"], row["seed"]) for row in rows}
    for seed, stream, system in itertools.product(range(seeds), streams or STREAMS, systems or SYSTEMS):
        if (stream, system, seed) in done:
            continue
        began = time.process_time()
        row = {
            "stream": stream,
            "system": system,
            "seed": seed,
            **follow(problem(stream, seed), system, seed, GAIN[stream]),
        }
        rows.append({**row, "seconds": round(time.process_time() - began, 1)})
        figures = row["linear"]
        progress(
            f"{stream} {system} {seed}: final {figures['final_accuracy']:.3f}, forgetting {figures['forgetting']:+.3f}"
        )
        keep(out, _result(rows))
    return _result(rows)


def follow(given: Problem, system: str, seed: int, gain: float) -> Row:
    """One device's way through a stream: matrices and figures, by judge and by its own read-out."""
    from neuromorphic.plastic import balance, embed
    from neuromorphic.prototypes import Prototypes

    factory = as_spikes(given.factory.take(np.arange(len(given.factory))), gain)
    network = local_network(
        CASE, "espp" if system == "frozen" else system, factory.shape[2], seed, SHIFT.get(system, 0)
    )
    network = balance(network, factory[:BALANCE_SAMPLES], BALANCE_RATE)
    if system != "frozen":
        network = balance(learn_locally(network, factory, CASE.parts), factory[:BALANCE_SAMPLES], BALANCE_RATE)

    def features(samples: Array) -> Array:
        return embed(network, as_spikes(samples, gain), HIDDEN)

    judge, read_out = Judge(given.bank, given.test), Prototypes(sum(CASE.recipe["hidden"]), PROTOTYPES, novelty=NOVELTY)
    labels = stream_labels(given)
    found, own, positions = [judge.verdict(features)], [np.zeros(judge.contexts)], [0]
    ends = set(given.order.ends().tolist())
    stream = Stream(given.stream, given.order, CHUNK)
    for samples in stream:
        spikes = as_spikes(samples, gain)
        if system != "frozen":
            network = learn_locally(network, spikes, CASE.parts)
            network = balance(network, spikes, BALANCE_RATE)
        for z, label in zip(features(samples), labels[stream.position - len(samples) :], strict=False):
            if z.any():
                read_out.observe(z, str(label))
        if stream.position in ends:  # chunks divide the contexts
            found.append(judge.verdict(features))
            own.append(_own_accuracy(read_out, features(given.test.samples), given))
            positions.append(stream.position)
    matrices = {kind: np.stack([verdict[kind] for verdict in found]) for kind in KINDS} | {"prototypes": np.array(own)}
    row: Row = {"prototypes_used": len(read_out)}
    for name, matrix in matrices.items():
        figures = summarize(matrix, positions).to_json()
        row[name] = {"matrix": matrix.tolist(), **{key: figures[key] for key in FIGURES}}
    return row


def stream_labels(given: Problem) -> Array:
    """Labels (M,) of the stream's samples in their order: those of the same samples in the judge's bank.

    Raises:
        DataError: a sample is not in the bank.
    """
    known = {sample.tobytes(): label for sample, label in zip(given.bank.samples, given.bank.labels, strict=True)}
    came = given.stream.take(given.order.indices)
    found = [known.get(sample.tobytes()) for sample in came]
    if None in found:
        raise DataError("a sample of the stream is not in the judge's bank, so the read-out cannot be told its label")
    return np.array(found)


def as_spikes(samples: Array, gain: float) -> Array:
    """Images (N, C, H, W) in 0..1 as regular spikes (N, STEPS, C H W) uint8, the rate that of the intensity."""
    from neuromorphic.spike_encoders import build_encoder

    encoder = build_encoder("regular", {"steps": STEPS, "gain": gain})
    return encoder(samples, [np.random.default_rng(0)] * len(samples))


def _own_accuracy(read_out: Any, features: Array, given: Problem) -> Array:
    said = np.array([name or "" for name in read_out.classify(features)])
    right = said == given.test.labels.astype(str)
    return np.array([right[given.test.contexts == c].mean() for c in range(given.test.contexts.max() + 1)])


def summary(rows: Sequence[Row]) -> list[Row]:
    """Mean and sample standard deviation over seeds of every figure, per stream, system and way of judging."""
    keys = list(dict.fromkeys((row["stream"], row["system"]) for row in rows))
    return [
        {"stream": stream, "system": system, "judged": judged,
         **{figure: mean_and_std([row[judged][figure] for row in rows if (row["stream"], row["system"]) == key])
            for figure in FIGURES}}
        for key in keys for stream, system in [key] for judged in (*KINDS, "prototypes")
    ]  # fmt: skip


def _settings() -> dict[str, Any]:
    return {"steps": STEPS, "chunk": CHUNK, "gain": GAIN, "shift": SHIFT, "neurons": sum(CASE.recipe["hidden"]),
            "prototypes": PROTOTYPES, "novelty": NOVELTY, "rate": BALANCE_RATE}  # fmt: skip


def _result(rows: list[Row]) -> dict[str, Any]:
    return {"bench": "spiking_continual", "machine": machine(), "versions": versions(("numpy", "numba")),
            "settings": _settings(), "summary": summary(rows), "rows": rows}  # fmt: skip
