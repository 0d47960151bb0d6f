"""Spike-for-spike comparison with Lava: random networks of every family, and one network that a user asks about.

report = verify(network, inputs)              # simulators against Lava, this network
result = run_conformance(100, 1000, path)     # resumable; each network's counts are kept as it ends
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.errors import ConfigError, FormatError
from neuromorphic.lava.client import LavaRecord, run_lava
from neuromorphic.lava.environment import Environment, find_environment
from neuromorphic.network import IntegerNetwork
from neuromorphic.random_networks import FAMILIES, random_inputs, random_network
from neuromorphic.record import Record
from neuromorphic.rule_networks import RULES, rule_network
from neuromorphic.simulator import engines, make_simulator


@dataclass
class Comparison:
    """What was compared with Lava and how much of it differs.

    Attributes:
        compared: "spikes", "u", "v", "weights", "tags" -> numbers compared.
        mismatches: the same -> numbers that differ; all 0 is the claim.
        where: "spikes.hidden" -> mismatches, of the parts that differ.
        spikes: nonzero spikes of all populations: a silent network proves nothing.
        weight_changes: weights that differ from the initial ones at the end, all plastic connections.
        lava_steps_per_second: with everything recorded.
        versions: of the worker.
    """

    compared: dict[str, int]
    mismatches: dict[str, int]
    where: dict[str, int]
    spikes: int
    weight_changes: int
    lava_steps_per_second: float
    versions: dict[str, str]

    @property
    def total_mismatches(self) -> int:
        """Over all kinds."""
        return sum(self.mismatches.values())


def compare(network: IntegerNetwork, record: Record, lava: LavaRecord, tags: Mapping[str, np.ndarray]) -> Comparison:
    """Count differing numbers; `tags` are the simulator's final tags, (batch, n_post, n_pre) by connection."""
    compared, mismatches, where = {}, {}, {}
    plastic = record.weight_history or record.weights
    pairs: dict[str, tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]] = {
        "spikes": (record.spikes, lava.spikes),
        "u": (record.u, lava.u),
        "v": (record.v, lava.v),
        "weights": (plastic, lava.weight_history if record.weight_history else lava.weights),
        "tags": (tags, {name: history[:, -1] for name, history in lava.tag_history.items()}),
    }
    for kind, (ours, theirs) in pairs.items():
        if set(ours) != set(theirs):
            raise ConfigError(f"{kind} recorded of {sorted(ours)}, by Lava of {sorted(theirs)}; record the same")
        compared[kind], mismatches[kind] = sum(array.size for array in ours.values()), 0
        for name, array in ours.items():
            if bad := int(np.count_nonzero(array != theirs[name])):
                where[f"{kind}.{name}"] = bad
                mismatches[kind] += bad
    fired = sum(int(np.count_nonzero(array)) for array in record.spikes.values())
    changed = sum(int(np.count_nonzero(w != network.connection(name).weights)) for name, w in record.weights.items())
    return Comparison(compared, mismatches, where, fired, changed, lava.steps_per_second, lava.versions)


def simulate(
    network: IntegerNetwork, inputs: Mapping[str, np.ndarray], engine: str
) -> tuple[Record, dict[str, np.ndarray]]:
    """A record of everything, and the final tags."""
    batch = len(next(iter(inputs.values())))
    simulator = make_simulator(network, batch, engine)
    record = simulator.run(inputs, u=True, v=True, weight_history=True)
    state = simulator.state()
    tagged = [c.name for c in network.connections if c.rule is not None and c.rule.dt]
    return record, {name: state[f"{name}.tags"].transpose(0, 2, 1) for name in tagged}


def verify(
    network: IntegerNetwork,
    inputs: Mapping[str, np.ndarray],
    *,
    timeout_s: float = 300.0,
    environment: Environment | None = None,
) -> dict[str, Comparison]:
    """Run in Lava and in the simulators, from step 0; compare every recorded number.

    Args:
        network: what to run.
        inputs: name -> (batch, steps, n).
        timeout_s: for Lava, each lane.
        environment: where Lava is; otherwise what `edgessl neuro setup` made.

    Returns:
        "numpy" and, where numba is installed, "compiled" -> comparison.
    """
    lava = run_lava(network, inputs, timeout_s=timeout_s, environment=environment)
    return {engine: compare(network, *_swap(simulate(network, inputs, engine), lava)) for engine in engines()}


def _swap(
    simulated: tuple[Record, dict[str, np.ndarray]], lava: LavaRecord
) -> tuple[Record, LavaRecord, dict[str, np.ndarray]]:
    return simulated[0], lava, simulated[1]


@dataclass
class Conformance:
    """The kept result; `rows` has one per network: family, seed, steps and its comparison's counts."""

    steps: int
    machine: str
    versions: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Totals, for the top of the file."""
        families = {name: sum(row["family"] == name for row in self.rows) for name in (*FAMILIES, *RULES)}
        keys = ("spikes", "u", "v", "weights", "tags")
        return {
            "networks": len(self.rows),
            "families": families,
            "steps": sum(row["steps"] for row in self.rows),
            "compared": {key: sum(row["compared"][key] for row in self.rows) for key in keys},
            "mismatches": {
                key: sum(row["mismatches"][engine][key] for row in self.rows for engine in row["mismatches"])
                for key in keys
            },
            "nonzero_spikes": sum(row["nonzero_spikes"] for row in self.rows),
            "weights_changed": sum(row["weights_changed"] for row in self.rows),
        }


def run_conformance(
    networks: int,
    steps: int,
    path: Path,
    *,
    rules: int = 0,
    progress: Callable[[str], None] = lambda line: None,
    timeout_s: float = 600.0,
) -> dict[str, Any]:
    """Compare `networks` random networks over `steps` steps; families take turns, network k has seed k.

    Then `rules` networks of each local learning rule, with the inputs its own driver gives while it learns. Each
    network is kept in the JSON file `path` as it ends; what is there already is not run again.

    Returns:
        The file's content: "summary" and "rows" first of all.

    Raises:
        FormatError: `path` holds something else, or another number of steps.
        LavaUnavailableError: no worker environment.
    """
    environment = find_environment()
    kept = Conformance(steps, f"{platform.machine()}, {platform.system()}", environment.versions)
    if path.exists():
        try:
            data = json.loads(path.read_text())
            kept.rows = data["rows"]
            same = data["steps"] == steps
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise FormatError(f"{path}: not a conformance file ({error}); give another path") from error
        if not same:
            raise FormatError(f"{path}: has {data['steps']} steps per network, asked for {steps}; give another path")
    done = {(row["family"], row["seed"]) for row in kept.rows}
    names = list(FAMILIES)
    wanted = [(names[seed % len(names)], seed) for seed in range(networks)]
    wanted += [(name, seed) for name in RULES for seed in range(rules)]
    for family, seed in wanted:
        if (family, seed) in done:
            continue
        started = time.monotonic()
        if family in RULES:
            network, inputs = rule_network(family, seed, steps)
        else:
            network = random_network(family, seed)
            inputs = random_inputs(network, steps, seed)
        compared = verify(network, inputs, timeout_s=timeout_s, environment=environment)
        one = compared["numpy"]
        kept.rows.append(
            {
                "family": family,
                "seed": seed,
                "steps": steps,
                "neurons": sum(p.size for p in network.populations),
                "compared": one.compared,
                "mismatches": {engine: comparison.mismatches for engine, comparison in compared.items()},
                "nonzero_spikes": one.spikes,
                "weights_changed": one.weight_changes,
            }
        )
        bad = sum(comparison.total_mismatches for comparison in compared.values())
        progress(f"{family} {seed}: {bad} mismatches, {one.spikes} spikes, {time.monotonic() - started:.1f} s")
        _write(path, kept)
    return _write(path, kept)


def _write(path: Path, kept: Conformance) -> dict[str, Any]:
    random = sum(row["family"] in FAMILIES for row in kept.rows)
    rules = max((row["seed"] + 1 for row in kept.rows if row["family"] in RULES), default=0)
    command = f"edgessl neuro verify --networks {random} --rules {rules} --steps {kept.steps} --out {path}"
    result = {"summary": kept.summary(), "command": command, **asdict(kept)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)
    return result
