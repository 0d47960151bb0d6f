"""NIR graphs as integer networks: those of `neuromorphic.nir_export` exactly, others quantized and scaled.

    network = read_nir("coder.nir")          # integers come back as they were
    network = read_nir("other.nir", dt=1e-3) # of a float graph, weights become integers; notes say by which scales

Built on the `nir` package itself (pip install 'edgessl[neuromorphic]').
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgessl.errors import ConfigError, FormatError
from neuromorphic.network import Connection, IntegerNetwork, quantize_weights
from neuromorphic.nir_export import KEY, UNIT, nir_package
from neuromorphic.populations import LIF, Input

if TYPE_CHECKING:
    import nir


def read_nir(path: str | Path, bits: int = 8, dt: float | None = None) -> IntegerNetwork:
    """The network of a NIR file; see `import_nir`.

    Raises:
        FormatError: not a NIR file.
    """
    try:
        graph = nir_package().read(str(path))
    except (OSError, KeyError, ValueError, AssertionError, TypeError) as error:
        raise FormatError(f"{path}: not a NIR file ({error})") from error
    return import_nir(graph, bits, dt)


def import_nir(graph: nir.NIRGraph, bits: int = 8, dt: float | None = None) -> IntegerNetwork:
    """A graph of Input, Linear or Affine, CubaLIF, Delay and Output nodes as integers.

    Our own graphs come back as they were, unless their weights were edited. Others are scaled: per population, k =
    254 / max |W| over its connections (times w_in and r as Euler's rule has them), weights quantized to `bits`,
    thresholds and biases multiplied by the same k; notes["scales"] has every k.

    Args:
        graph: flat.
        bits: of quantized weights, 2..8.
        dt: seconds per step of a graph that is not ours; required there.

    Raises:
        ConfigError: a node or parameter has no integer form here, by name.
        MissingDependencyError: nir is not installed.
    """
    nir = nir_package()
    kept = (graph.metadata or {}).get(KEY) if isinstance(graph.metadata, Mapping) else None
    ours: dict[str, Any] = {}
    if kept is not None:
        try:
            ours = json.loads(kept.decode() if isinstance(kept, bytes) else str(kept))
            dt = float(ours["dt"])
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"NIR metadata {KEY!r} is damaged ({error}); remove it to read the float graph"
            ) from error
    if dt is None or not dt > 0:
        raise ConfigError(f"this graph was not written by edgessl; give dt, its seconds per step (found {dt})")
    known = (nir.Input, nir.Output, nir.Linear, nir.Affine, nir.CubaLIF, nir.Delay)
    for name, node in graph.nodes.items():
        if not isinstance(node, known):
            raise ConfigError(f"NIR node {name!r} is a {type(node).__name__}; expected {[k.__name__ for k in known]}")
    links = _links(nir, graph)
    inputs = [Input(_plain(n), int(np.prod(node.input_type["input"]))) for n, node in graph.nodes.items()
              if isinstance(node, nir.Input)]  # fmt: skip
    populations, connections, scales = [], [], {}
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.CubaLIF):
            continue
        incoming = [link for link in links if link["post"] == name]
        population, scale = _population(name, node, incoming, ours, dt)
        populations.append(population)
        scales[_plain(name)] = scale
        for link in incoming:
            connections.append(_connection(link, node, scale, bits, dt, ours))
    # a population sums its connections in the network's order, which a graph does not have
    order = list(ours.get("connections", {}))
    connections.sort(key=lambda c: order.index(c.name) if c.name in order else len(order))
    names = list(ours.get("populations", {}))
    populations.sort(key=lambda p: names.index(p.name) if p.name in names else len(names))
    notes = dict(ours.get("notes", {})) if ours else {"made_by": "neuromorphic.nir_import", "scales": scales, "dt": dt}
    return IntegerNetwork(inputs, populations, connections, notes)


def _links(nir: Any, graph: Any) -> list[dict[str, Any]]:
    """A Linear or Affine node between two others, with the Delay before it."""
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    after: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        if isinstance(graph.nodes[target], nir.CubaLIF) and not isinstance(
            graph.nodes[source], nir.Linear | nir.Affine
        ):
            raise ConfigError(f"NIR edge {source!r} -> {target!r} has no weights; put a Linear node between them")
        before[target].append(source)
        after[source].append(target)
    links = []
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.Linear | nir.Affine):
            continue
        if len(before[name]) != 1 or len(after[name]) != 1 or not isinstance(graph.nodes[after[name][0]], nir.CubaLIF):
            raise ConfigError(f"NIR node {name!r} must stand between one source and one CubaLIF, found {before[name]}"
                              f" -> {after[name]}")  # fmt: skip
        source, delay = before[name][0], 0.0
        if isinstance(graph.nodes[source], nir.Delay):
            values = np.unique(graph.nodes[source].delay)
            if len(values) != 1 or len(before[source]) != 1:
                raise ConfigError(f"NIR node {source!r} has {len(values)} different delays; one per connection fits")
            source, delay = before[source][0], float(values[0])
        bias = getattr(node, "bias", None)
        links.append({"name": name, "pre": source, "post": after[name][0], "delay": delay, "bias": bias,
                      "weight": np.asarray(node.weight, np.float64)})  # fmt: skip
    return links


def _one(name: str, what: str, values: Any) -> float:
    found = np.unique(np.asarray(values, np.float64))
    if len(found) != 1:
        raise ConfigError(f"NIR node {name!r}: {what} differs between neurons ({found.min():g}..{found.max():g}); a"
                          " population has one: split it")  # fmt: skip
    return float(found[0])


def _population(
    name: str, node: Any, incoming: list[dict[str, Any]], ours: Mapping[str, Any], dt: float
) -> tuple[LIF, float]:
    """The population, and k: integer weight units per unit of v."""
    tau_syn, tau_mem = _one(name, "tau_syn", node.tau_syn), _one(name, "tau_mem", node.tau_mem)
    if not (tau_syn >= dt and tau_mem >= dt):
        raise ConfigError(f"NIR node {name!r}: time constants {tau_syn:g}, {tau_mem:g} s are below dt = {dt:g}")
    if np.any(np.asarray(node.v_reset)):
        raise ConfigError(f"NIR node {name!r}: v_reset is not 0; neurons here reset to 0")
    du, dv = round(4096 * dt / tau_syn) - 1, round(4096 * dt / tau_mem)
    threshold = _one(name, "v_threshold", node.v_threshold)
    leak = np.asarray(node.v_leak, np.float64) * dt / tau_mem
    for link in incoming:  # an Affine node's bias is an input current that stays: its end effect on the voltage
        if link["bias"] is not None and np.any(link["bias"]):
            raise ConfigError(f"NIR node {link['name']!r} has a bias; move it into v_leak of {name!r}")
    kept = ours.get("populations", {}).get(name)
    if kept is not None:
        scale = 1 / UNIT
        bias, exponent = _back(kept["bias"]), _back(kept["bias_exp"])
    else:
        largest = max((float(np.abs(_effective(link, node, dt)).max()) for link in incoming), default=0.0)
        if not largest:
            raise ConfigError(f"NIR node {name!r} has no weights other than 0 coming in; there is nothing to scale by")
        scale = 254 / largest
        wanted = leak * scale * UNIT
        exponent = next((e for e in range(8) if np.abs(wanted).max(initial=0) <= 4095 << e), 7)
        bias = np.round(wanted / 2**exponent).astype(np.int32)
    vth = round(threshold * scale)
    return LIF(_plain(name), node.v_threshold.size, du=max(du, 0), dv=dv, vth=vth, bias=bias, bias_exp=exponent), scale


def _effective(link: Mapping[str, Any], node: Any, dt: float) -> np.ndarray:
    """What a spike adds to the voltage in its first step, (n_post, n_pre)."""
    gain = (
        np.asarray(node.w_in) * (dt / np.asarray(node.tau_syn)) * np.asarray(node.r) * (dt / np.asarray(node.tau_mem))
    )
    found: np.ndarray = link["weight"] * gain[:, None]
    return found


def _connection(
    link: Mapping[str, Any], node: Any, scale: float, bits: int, dt: float, ours: Mapping[str, Any]
) -> Connection:
    kept = ours.get("connections", {}).get(link["name"], {"exponent": 0, "bits": bits, "sign": "mixed"})
    exact = _effective(link, node, dt) * scale / 2.0 ** kept["exponent"]
    step = 1 << (8 - kept["bits"] + (kept["sign"] == "mixed"))
    weights = quantize_weights(np.round(exact / step) * step, kept["bits"], kept["sign"])
    delay = round(link["delay"] / dt)
    return Connection(
        _plain(link["name"]), _plain(link["pre"]), _plain(link["post"]), weights, kept["exponent"], kept["bits"],
        kept["sign"], delays=delay or None,
    )  # fmt: skip


def _back(value: Any) -> Any:
    return np.asarray(value, np.int32) if isinstance(value, list) else int(value)


def _plain(name: str) -> str:
    """A NIR node's name without what a network's names may not have."""
    return name.replace(".", "_").replace("/", "_")
