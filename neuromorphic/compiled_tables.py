"""An integer network as the tables that the kernels read."""

from __future__ import annotations

import numpy as np

from neuromorphic import kernel_tables as tables
from neuromorphic.kernel_tables import (
    DELAYED,
    ERROR,
    FACTOR,
    GRADED,
    PART,
    PRODUCT,
    ROWS,
    RULE,
    SPARSE,
    SYNAPSES,
    TERNARY,
    X0,
    Y0,
    Net,
    U,
)
from neuromorphic.learning import WEIGHT_RANGES, split_impulses, trace_keeps
from neuromorphic.network import Connection, IntegerNetwork
from neuromorphic.populations import LIF, TRACES, ErrorUnit, Graded, TernaryLIF
from neuromorphic.rules import FACTOR_BITS, GRADED_MODES, Product

KINDS = {"lif": tables.LIF, "ternary": TERNARY, "graded": GRADED, "error": ERROR}
STATES = {name: code for code, name in enumerate(("x0", "y0", "x1", "x2", "y1", "y2", "y3", "w", "t"))}
SPARSE_BELOW = 0.3  # of nonzero weights; measured: above it reading whole rows is faster than following indices


def tabulate(network: IntegerNetwork) -> Net:
    """The network as the kernels' tables."""
    rules, products, factors = _rules(network)
    parts = np.zeros(len(network.sizes), PART)
    sizes = list(network.sizes.values())
    parts["start"], parts["size"] = np.cumsum([0, *sizes[:-1]]), list(network.sizes.values())
    parts["kind"] = -1
    inputs, populations = len(network.inputs), network.populations
    for row, p in zip(parts[inputs:], populations, strict=True):
        row["kind"] = KINDS[p.kind]
        if isinstance(p, LIF):
            row["keep_u"], row["keep_v"], row["high"] = 4095 - p.du, 4096 - p.dv, p.vth << 6
            row["low"] = p.vth_lo << 6 if isinstance(p, TernaryLIF) else 0
            row["reset_every"], row["reset_at"] = p.reset_interval, p.reset_offset % max(p.reset_interval, 1)
        elif isinstance(p, Graded):
            row["high"], row["relu"] = p.vth, p.relu
        elif isinstance(p, ErrorUnit):
            row["keep_u"], row["keep_v"], row["shift"] = 4096 - p.decay, 4096 - p.decay, p.shift
    bias = [p.bias_current if isinstance(p, LIF) else np.zeros(p.size, np.int32) for p in populations]
    first = sum(i.size for i in network.inputs)
    return Net(inputs, first, parts, np.concatenate(bias), *_synapses(network), rules, products, factors)


def _synapses(network: IntegerNetwork) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    number = {name: k for k, name in enumerate(network.sizes)}
    plastic = {c.name: k for k, c in enumerate(_plastic(network))}
    table = np.zeros(len(network.connections), SYNAPSES)
    flat: tuple[list[np.ndarray], ...] = ([], [], [], [], [])
    values, pointers, posts, delays, fan_out = flat
    stored = pointed = fanned = ring = 0
    for row, c in zip(table, network.connections, strict=True):
        n_post, n_pre = c.weights.shape
        nonzero = np.count_nonzero(c.weights, axis=0)
        dense = not c.max_delay and nonzero.sum() > SPARSE_BELOW * c.weights.size
        mode = ROWS if dense else DELAYED if c.max_delay else SPARSE
        row["pre"], row["post"], row["target"] = number[c.pre], number[c.post], c.port == "target"
        row["exponent"], row["payload"], row["depth"] = c.exponent, c.payload_bits > 0, c.max_delay + 1
        row["ring"], row["mode"], row["weights"], row["pointers"] = ring, mode, stored, pointed
        row["plastic"], row["fan"] = plastic.get(c.name, -1), fanned
        ring += (c.max_delay + 1) * n_post
        fan_out.append(nonzero if not c.learns else np.full(n_pre, n_post))
        fanned += n_pre
        if c.learns:
            continue
        pre, post = np.nonzero(c.weights.T)
        if dense:
            pre, post = np.divmod(np.arange(c.weights.size), n_post)
            nonzero = np.full(n_pre, n_post)
        values.append(c.weights[post, pre])
        posts.append(post)
        delays.append(np.zeros(len(post)) if c.delays is None else np.asarray(c.delays)[post, pre])
        pointers.append(stored + np.concatenate([[0], np.cumsum(nonzero)]))
        stored += len(post)
        pointed += n_pre + 1
    dtypes = (np.int16, np.int64, np.int32, np.int8, np.int64)
    joined = [np.concatenate([*arrays, []]).astype(dtype) for arrays, dtype in zip(flat, dtypes, strict=True)]
    return table, joined[0], joined[1], joined[2], joined[3], joined[4]


def _rules(network: IntegerNetwork) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    number = {name: k for k, name in enumerate(network.sizes)}
    order = {c.name: k for k, c in enumerate(network.connections)}
    table = np.zeros(len(_plastic(network)), RULE)
    products: list[tuple[int, ...]] = []
    factors: list[tuple[int, ...]] = []
    pre = post = weights = tags = 0
    for row, c in zip(table, _plastic(network), strict=True):
        rule = c.rule
        assert rule is not None
        row["connection"], row["three_factor"], row["epoch"] = order[c.name], rule.three_factor, rule.t_epoch
        row["decimate"], row["graded"] = rule.decimate, GRADED_MODES.index(rule.graded)
        row["low"], row["high"] = WEIGHT_RANGES[c.sign]
        row["weights"], row["tags"] = weights, tags if rule.dt else -1
        row["x"], row["y"] = pre, post
        pre, post, weights = pre + c.weights.shape[1], post + len(c.weights), weights + c.weights.size
        tags += c.weights.size if rule.dt else 0
        named = network.modulators(c)
        for k, trace in enumerate(TRACES):
            name, _, port = named.get(trace, "").partition(".")
            row["source"][k], row["port"][k] = number.get(name, -1), TRACES.index(port) if port else -1
        row["dw"] = len(products)
        products += [_product_row(product, factors) for product in rule.weight_products]
        row["dt"] = len(products)
        products += [_product_row(product, factors) for product in rule.tag_products]
        row["end"] = len(products)
        row["impulse"], row["fraction"] = split_impulses(rule.impulses)
        row["keep"] = trace_keeps(rule.taus)
        row["decays"] = np.asarray(rule.taus) != 0
    return table, np.array(products, PRODUCT), np.array(factors, FACTOR)


def _plastic(network: IntegerNetwork) -> list[Connection]:
    return [c for c in network.connections if c.learns]


def _product_row(product: Product, factors: list[tuple[int, ...]]) -> tuple[int, ...]:
    begin = len(factors)
    for factor in product.factors:
        limit = 1 << FACTOR_BITS[factor.state]
        factors.append((STATES[factor.state], factor.constant, int(factor.sign), -limit, limit - 1))
    dependency = {"x0": X0, "y0": Y0, "u": U}[product.dependency]
    return dependency, product.mantissa, product.hidden_shift, product.exponent + 7, begin, len(factors)
