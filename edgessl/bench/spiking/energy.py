"""What the trained spiking networks do per sample and what that would cost, beside their dense int8 twins.

    edgessl bench spiking_energy --set chosen=examples/results/spiking_choice.json --set out=spiking_energy.json

The networks are those of `edgessl bench spiking` with seed 0: the predictive coder converted to 8 bits, and the network
of ESPP, at rest and while it learns. Counts are exact; energies are estimates by published tables, and none is Loihi
2's. Where the data are a series, the twin runs at every step, else once per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.bench.results import keep
from edgessl.bench.spiking.data import CASES, Data, load
from edgessl.bench.spiking.run import read_choices
from edgessl.bench.spiking.systems import BALANCE_RATE, BALANCE_SAMPLES, HIDDEN, learn_locally, local_network
from edgessl.errors import ConfigError
from edgessl.machine import machine, versions

Row = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]
FACTOR = 2.0  # of the sensitivity bands
LEARNED = 20  # samples over which learning is counted
SERIES = ("fsdd", "qtdb_ecg_spikes")  # what is heard as it comes, and cannot be seen at once


def run(
    data: Sequence[str] = (),
    *,
    samples: int = 100,
    chosen: str = "",
    out: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Count and price.

    Args:
        data: some of the spiking bench's cases; all when empty.
        samples: test samples that are counted.
        chosen: file of `bench spiking`'s "choose" stage; without one the last numbers of its grid.
        out: JSON file to write.
        progress: told in a line what was done.

    Returns:
        {"bench", "machine", "versions", "settings", "rows"}. A row has data, network ("predictive, 8 bits", "ESPP",
        "ESPP, learning"), the ledger, the priced rows (see `neuromorphic.prices.Priced.to_json`), the widest
        sensitivity of each total, and NeuroBench's metrics.

    Raises:
        ConfigError: unknown data.
    """
    if unknown := sorted(set(data) - set(CASES)):
        raise ConfigError(f"unknown data {unknown[0]!r}; expected {', '.join(CASES)}")
    best = read_choices(Path(chosen)) if chosen else {}
    rows: list[Row] = []
    for name in data or CASES:
        opened = load(CASES[name])
        rows += _predictive(opened, name, samples, best.get(name, {}).get("predictive", 3e-3))
        rows += _echo(opened, name, samples, int(best.get(name, {}).get("espp", -1)))
        progress(f"{name}: {len(rows)} networks")
    result = {
        "bench": "spiking_energy", "machine": machine(), "versions": versions(("numpy", "torch", "numba")),
        "settings": {"samples": samples, "factor": FACTOR, "chosen": best or "untuned"}, "rows": rows,
    }  # fmt: skip
    keep(out, result)
    return result


def _predictive(data: Data, name: str, samples: int, lr: float) -> list[Row]:
    from neuromorphic.convert import convert
    from neuromorphic.training import parse_spiking_recipe, train

    recipe = parse_spiking_recipe({**data.case.recipe, "seed": 0, "lr": lr})
    network = convert(train(recipe, data.train).coder(), 8).network
    return [_row(name, "predictive, 8 bits", network, {"input": data.test.take(np.arange(samples))})]


def _echo(data: Data, name: str, samples: int, shift: int) -> list[Row]:
    from neuromorphic.espp import EchoLearner, adjacency, windows
    from neuromorphic.plastic import balance, frozen, relearned, with_silent
    from neuromorphic.rule_networks import Overheard

    spikes = data.train.take(np.random.default_rng(0).permutation(len(data.train)))
    first = local_network(data.case, "espp", data.train.shape[1], 0, shift)
    network = balance(first, spikes[:BALANCE_SAMPLES], BALANCE_RATE)
    network = balance(learn_locally(network, spikes, data.case.parts), spikes[:BALANCE_SAMPLES], BALANCE_RATE)
    network = relearned(network, {"encode": network.connection("encode").weights})
    still = frozen(network)
    rows = [_row(name, "ESPP", still, with_silent(still, data.test.take(np.arange(samples))))]
    learner = EchoLearner(network)
    learner.simulator = overheard = Overheard(network)
    cut, recording = windows(spikes[:LEARNED], data.case.parts)
    for window, goes_on in zip(cut, adjacency(recording), strict=True):
        learner.present(window, bool(goes_on))
    rows.append(_row(name, "ESPP, learning", network, overheard.sent, LEARNED))
    return rows


def _row(name: str, label: str, network: Any, inputs: dict[str, Array], samples: int = 0) -> Row:
    """Ledger, prices, sensitivities and metrics of one run from rest; `samples` where one lane holds several."""
    from neuromorphic.energy import ledger, neurobench
    from neuromorphic.pictures import compare_energy
    from neuromorphic.plastic import plastic_names
    from neuromorphic.prices import sensitivity
    from neuromorphic.simulator import make_simulator

    lanes = len(next(iter(inputs.values())))
    record = make_simulator(network, lanes).run(inputs, v=True)
    counted = replace(ledger(network, record, read_out=[HIDDEN] if label.startswith("ESPP") else None),
                      samples=samples or lanes)  # fmt: skip
    priced = compare_energy(network, counted, counted.steps if name in SERIES else 1)
    if plastic_names(network):
        priced = priced[:-1]  # the twin does not learn
    swings = {f"{p.ledger.subject}, {p.table.name}": sensitivity(p.ledger, p.table, p.left_out, FACTOR)
              for p in priced if not p.unknown}  # fmt: skip
    return {
        "data": name, "network": label, "samples": counted.samples, "steps": counted.steps,
        "neurons": sum(p.size for p in network.populations),
        "synapses": sum(int(np.count_nonzero(c.weights)) for c in network.connections),
        "ledger": counted.to_json(), "priced": [p.to_json() for p in priced],
        "widest": {key: next(iter(found.items())) for key, found in swings.items() if found},
        "neurobench": neurobench(network, record),
    }  # fmt: skip
