"""Integer networks as NIR graphs, built on the `nir` package itself (pip install 'edgessl[neuromorphic]').

    graph, lost = export_nir(network)        # what NIR cannot say is in `lost`, or refused by name
    write_nir(network, "coder.nir")          # neuromorphic.nir_import reads it

NIR (Pedersen et al., Nat. Commun. 15, 2024) has continuous equations and no fixed point. A LIF population becomes a
CubaLIF that, stepped by forward Euler with dt, has Lava's update but for rounding: 1 - dt / tau_syn = (4096 - du - 1) /
4096, 1 - dt / tau_mem = (4096 - dv) / 4096, w_in = tau_syn / dt and r = tau_mem / dt, so that a weight adds itself and
the current adds itself; weights are 64 W 2^exponent and thresholds 64 vth, in units of v. The exact integers ride along
in the graph's metadata, where any tool may ignore them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgessl.errors import ConfigError, MissingDependencyError
from neuromorphic.network import IntegerNetwork
from neuromorphic.populations import LIF

if TYPE_CHECKING:
    import nir

UNIT = 64  # of v per unit of weight
KEY = "edgessl_integers"
LOST = (
    "24-bit registers: u wraps and v saturates",
    "rounding of decays toward zero and of negative exponents toward minus infinity",
    "one step of delay per synapse: NIR connections are instantaneous",
    "the bits and sign modes of synapses",
)
"""What no NIR graph says; the metadata keeps it for this project's own reader."""


def export_nir(network: IntegerNetwork, dt: float = 1e-3) -> tuple[nir.NIRGraph, tuple[str, ...]]:
    """The graph of a network of binary LIF populations, and what it cannot say.

    Nodes: the inputs, a Linear per connection, a CubaLIF per population, a Delay per delayed connection, an Output per
    population without outgoing connections, named as in the network (outputs: NAME_out).

    Args:
        network: inputs binary, populations LIF with a leak, static connections.
        dt: seconds per step.

    Raises:
        ConfigError: names the first part that NIR has no word for.
        MissingDependencyError: nir is not installed.
    """
    nir = nir_package()
    if not dt > 0:
        raise ConfigError(f"dt must be above 0 seconds, found {dt}")
    _refuse(network)
    nodes: dict[str, Any] = {i.name: nir.Input({"input": np.array([i.size])}) for i in network.inputs}
    edges: list[tuple[str, str]] = []
    for p in network.populations:
        assert isinstance(p, LIF)
        nodes[p.name] = _cuba(nir, p, dt)
    for c in network.connections:
        nodes[c.name] = nir.Linear(c.weights.astype(np.float64) * UNIT * 2.0**c.exponent)
        source = c.pre
        if c.max_delay:
            source = f"{c.name}_delay"
            nodes[source] = nir.Delay(np.full(c.weights.shape[1], c.max_delay * dt))
            edges.append((c.pre, source))
        edges += [(source, c.name), (c.name, c.post)]
    senders = {c.pre for c in network.connections}
    for p in network.populations:
        if p.name not in senders:
            nodes[f"{p.name}_out"] = nir.Output({"output": np.array([p.size])})
            edges.append((p.name, f"{p.name}_out"))
    if taken := sorted({i.name for i in network.inputs} & {c.name for c in network.connections}):
        raise ConfigError(f"input and connection are both called {taken[0]!r}; NIR nodes need names of their own")
    return nir.NIRGraph(nodes, edges, metadata={KEY: json.dumps(_integers(network, dt))}), LOST


def write_nir(network: IntegerNetwork, path: str | Path, dt: float = 1e-3) -> tuple[str, ...]:
    """Write the graph of `export_nir`; returns what it cannot say."""
    graph, lost = export_nir(network, dt)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nir_package().write(str(path), graph)
    return lost


def _refuse(network: IntegerNetwork) -> None:
    """Name the first part for which NIR has no word."""
    for i in network.inputs:
        if i.payload_bits:
            raise ConfigError(f"input {i.name!r} has graded spikes of {i.payload_bits} bits; NIR spikes are binary")
    for p in network.populations:
        if type(p) is not LIF:
            raise ConfigError(f"population {p.name!r} is of kind {p.kind!r}; NIR has no such neuron, only CubaLIF fits")
        if p.reset_interval:
            raise ConfigError(f"population {p.name!r} resets every {p.reset_interval} steps; NIR has no periodic reset")
        if not p.dv:
            raise ConfigError(
                f"population {p.name!r} does not leak (dv = 0): tau_mem would be infinite; give it dv >= 1"
            )
    for c in network.connections:
        if c.rule is not None:
            raise ConfigError(f"connection {c.name!r} learns ({c.rule.dw!r}); NIR has no plasticity: freeze it first")
        if c.payload_bits:
            raise ConfigError(f"connection {c.name!r} takes payloads; NIR spikes are binary")
        if c.delays is not None and np.ptp(c.delays):
            raise ConfigError(f"connection {c.name!r} has a delay per synapse; a NIR Delay has one per neuron")


def _cuba(nir: Any, p: LIF, dt: float) -> Any:
    full = lambda value: np.full(p.size, value, np.float64)  # noqa: E731
    tau_syn, tau_mem = dt * 4096 / (p.du + 1), dt * 4096 / p.dv
    return nir.CubaLIF(
        tau_syn=full(tau_syn),
        tau_mem=full(tau_mem),
        r=full(tau_mem / dt),
        v_leak=p.bias_current * (tau_mem / dt),
        v_threshold=full(p.vth * UNIT),
        v_reset=full(0.0),
        w_in=full(tau_syn / dt),
    )


def _integers(network: IntegerNetwork, dt: float) -> dict[str, Any]:
    """What a float graph forgets, as JSON; weights and delays are read from the graph itself."""
    populations = {}
    for p in network.populations:
        assert isinstance(p, LIF)
        populations[p.name] = {
            "bias": np.broadcast_to(p.bias, (p.size,)).tolist() if np.ndim(p.bias) else int(p.bias),
            "bias_exp": np.broadcast_to(p.bias_exp, (p.size,)).tolist() if np.ndim(p.bias_exp) else int(p.bias_exp),
        }
    connections = {c.name: {"exponent": c.exponent, "bits": c.bits, "sign": c.sign} for c in network.connections}
    return {"dt": dt, "populations": populations, "connections": connections, "notes": dict(network.notes)}


def nir_package() -> Any:
    """The `nir` module; MissingDependencyError where it is not installed."""
    try:
        import nir
    except ImportError as error:
        raise MissingDependencyError(
            f"nir is needed for NIR files and cannot be imported ({error}); run: pip install 'edgessl[neuromorphic]'"
        ) from error
    return nir
