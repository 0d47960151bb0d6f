"""numba kernels of the compiled simulator: one call runs lanes `first..last` for all steps over flat tables.

Arithmetic is `neuromorphic.simulator`'s and `neuromorphic.learning`'s; tests hold the two together bit for bit.
Integers are stored in int32 arrays wherever Lava has 32 bits, so that what overflows wraps as it does there. Loops are
written out: array assignment and reshape would double the time to compile.
"""

# what numba compiles has numba's types, not Python's
# mypy: disable-error-code="no-untyped-def,assignment,return-value,arg-type"

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from neuromorphic.kernel_tables import DELAYED, ERROR, GRADED, REGISTER, SPARSE, TERNARY, compiled
from neuromorphic.learning_kernels import plastic_step


@compiled
def _decay(register: int, keep: int) -> int:
    product = np.int64(register) * keep
    return (product + (4095 & (product >> 63))) >> 12  # toward zero


@compiled
def _shifted(total: int, exponent: int) -> int:
    return total << exponent if exponent > 0 else total >> -exponent


@compiled
def _fire_lif(a, u, v, fired, bias, keep_u, keep_v, high, low, ternary) -> None:
    for j in range(a.size):
        raw = np.int32(_decay(u[j], keep_u) + (np.int64(a[j]) << 6))
        wrapped = raw
        if raw > REGISTER:
            wrapped = np.int32(raw - 2 * REGISTER)
        if wrapped <= -REGISTER:
            wrapped = np.int32(raw + 2 * REGISTER)
        u[j] = wrapped
        volt = np.int32(_decay(v[j], keep_v) + np.int64(wrapped) + np.int64(bias[j]))
        volt = min(max(volt, np.int32(-REGISTER + 1)), np.int32(REGISTER - 1))
        spike = np.int32(volt > high)
        if ternary:
            spike -= np.int32(volt < low)
        fired[j] = spike
        v[j] = np.int32(0) if spike != 0 else volt


@compiled
def _fire(part, bias, time, a, target, fired, u, v) -> None:
    """One population; arrays are its own slices."""
    if part.kind == GRADED:
        for j in range(a.size):
            passes = a[j] > part.high if part.relu else abs(np.int64(a[j])) > part.high
            fired[j] = a[j] if passes else 0
        return
    if part.kind == ERROR:
        for j in range(a.size):
            u[j] = _decay(u[j], part.keep_u) + a[j]
            v[j] = _decay(v[j], part.keep_v) + target[j]
            error = np.int32(np.int64(v[j]) - np.int64(u[j])) >> part.shift
            fired[j] = min(max(error, -127), 127)
        return
    if part.reset_every > 0 and time % part.reset_every == part.reset_at:
        for j in range(a.size):
            u[j] = 0
            v[j] = 0
    _fire_lif(a, u, v, fired, bias, part.keep_u, part.keep_v, part.high, part.low, part.kind == TERNARY)


@compiled
def _read_static(net, c, spikes, active, count, ring, moment, total, spread) -> None:
    """Add what a static connection makes of the active sources to its ring, flat (depth, n_post)."""
    own = net.synapses[c]
    n_post, exponent, payload, depth = ring.size // own.depth, own.exponent, own.payload, own.depth
    if own.mode == DELAYED:
        for j in range(depth * n_post):
            spread[j] = 0
        for e in range(count):
            i = active[e]
            value = np.int64(spikes[i]) if payload else np.int64(1)
            for q in range(net.pointers[own.pointers + i], net.pointers[own.pointers + i + 1]):
                spread[net.delays[q] * n_post + net.posts[q]] += value * net.values[q]
        for k in range(depth):
            begin = (moment + k) % depth * n_post
            for j in range(n_post):
                ring[begin + j] += _shifted(spread[k * n_post + j], exponent)
        return
    for j in range(n_post):
        total[j] = 0
    for e in range(count):
        i = active[e]
        value = np.int32(spikes[i]) if payload else np.int32(1)
        if own.mode == SPARSE:
            for q in range(net.pointers[own.pointers + i], net.pointers[own.pointers + i + 1]):
                total[net.posts[q]] += value * np.int32(net.values[q])
        else:
            begin = own.weights + i * n_post
            row16 = net.values[begin : begin + n_post]
            if payload:
                for j in range(n_post):
                    total[j] += value * np.int32(row16[j])
            else:
                for j in range(n_post):
                    total[j] += np.int32(row16[j])
    for j in range(n_post):
        ring[j] = _shifted(total[j], exponent)


@compiled
def _read_plastic(weights, spikes, active, count, payload, exponent, row, total) -> None:
    n_post = row.size
    for j in range(n_post):
        total[j] = 0
    for e in range(count):
        i = active[e]
        value = np.int32(spikes[i]) if payload else np.int32(1)
        for j in range(n_post):
            total[j] += value * np.int32(weights[i * n_post + j])
    for j in range(n_post):
        row[j] = _shifted(total[j], exponent)


class Work(NamedTuple):
    """Scratch space of one lane."""

    spikes: np.ndarray
    active: np.ndarray
    count: np.ndarray
    a: np.ndarray
    target: np.ndarray
    total: np.ndarray
    spread: np.ndarray
    gate: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    columns: np.ndarray
    scratch: np.ndarray


@compiled
def _work(net) -> Work:
    last = net.parts[net.parts.size - 1]
    width = last.start + last.size
    spread, pre, post, widest = 1, 1, 1, 1
    for part in net.parts:
        widest = max(widest, part.size)
    for own in net.synapses:
        if own.mode == DELAYED:
            spread = max(spread, own.depth * net.parts[own.post].size)
    for rule in net.rules:
        own = net.synapses[rule.connection]
        pre = max(pre, (rule.epoch + 1) * 2 * net.parts[own.pre].size)
        post = max(post, (rule.epoch + 1) * 3 * net.parts[own.post].size)
    columns = np.zeros((3, widest), np.int64)  # all; twice the list of those that fired
    for j in range(widest):
        columns[0, j] = j
    return Work(
        np.zeros(width, np.int32),
        np.zeros(width, np.int32),
        np.zeros(net.parts.size, np.int64),
        np.zeros(width - net.first, np.int32),
        np.zeros(width - net.first, np.int32),
        np.zeros(widest, np.int32),
        np.zeros(spread, np.int64),
        np.zeros(widest, np.int32),
        np.zeros(pre, np.int32),
        np.zeros(post, np.int32),
        columns,
        np.zeros((3, widest), np.int32),
    )


@compiled
def _copy(source, target, start) -> None:
    for j in range(source.size):
        target[start + j] = source[j]


@compiled
def _step_neurons(net, st, out, lane, time, step, work, tally) -> None:
    """Hand over the rings, fire, record, list who fired; the inputs' spikes lie in work.spikes already."""
    for j in range(work.a.size):
        work.a[j] = 0
        work.target[j] = 0
    for own in net.synapses:
        size = net.parts[own.post].size
        begin = own.ring + ((time - 1) % own.depth) * size
        row = st.buffer[lane, begin : begin + size]
        start = net.parts[own.post].start - net.first
        into = work.target[start : start + size] if own.target else work.a[start : start + size]
        for j in range(size):
            into[j] += row[j]
            row[j] = 0
    for number in range(net.inputs, net.parts.size):
        part, k = net.parts[number], number - net.inputs
        start, stop = part.start - net.first, part.start - net.first + part.size
        a, target = work.a[start:stop], work.target[start:stop]
        fired = work.spikes[part.start : part.start + part.size]
        u, v = st.u[lane, start:stop], st.v[lane, start:stop]
        _fire(part, net.bias[start:stop], time, a, target, fired, u, v)
        driven = 0
        for j in range(part.size):
            driven += (a[j] != 0) | (target[j] != 0)
        tally[net.parts.size + net.synapses.size + k] += driven
        t, at = out.begin + step, out.columns[k]
        if at[0] >= 0:
            _copy(fired, out.small[lane, t], at[0])
        if at[1] >= 0:
            _copy(fired, out.graded[lane, t], at[1])
        if at[2] >= 0:
            _copy(u, out.u[lane, t], at[2])
        if at[3] >= 0:
            _copy(v, out.v[lane, t], at[3])
    for number in range(net.parts.size):
        part = net.parts[number]
        count, start = 0, part.start
        for i in range(part.size):
            work.active[start + count] = i
            count += work.spikes[start + i] != 0
        work.count[number] = count
        tally[number] += count


@compiled
def _step_synapses(net, random, st, lane, time, step, work, tally) -> None:
    """Read the spikes just fired, and learn."""
    for c in range(net.synapses.size):
        own = net.synapses[c]
        pre, size, n_pre = net.parts[own.pre], net.parts[own.post].size, net.parts[own.pre].size
        spikes, active = work.spikes[pre.start : pre.start + n_pre], work.active[pre.start : pre.start + n_pre]
        count, depth = work.count[own.pre], own.depth
        ring = st.buffer[lane, own.ring : own.ring + depth * size]
        for e in range(count):
            tally[net.parts.size + c] += net.fan_out[own.fan + active[e]]
        k = own.plastic
        if k < 0:
            _read_static(net, c, spikes, active, count, ring, time, work.total, work.spread)
            continue
        rule = net.rules[k]
        begin, length = rule.weights, n_pre * size
        weights = st.weights[lane, begin : begin + length]
        _read_plastic(weights, spikes, active, count, own.payload > 0, own.exponent, ring, work.total)
        tags = weights
        if rule.tags >= 0:
            tags = st.tags[lane, rule.tags : rule.tags + length]
        x = st.x[lane, 2 * rule.x : 2 * (rule.x + n_pre)]
        y = st.y[lane, 3 * rule.y : 3 * (rule.y + size)]
        tx, ty = st.tx[lane, rule.x : rule.x + n_pre], st.ty[lane, rule.y : rule.y + size]
        at = 2 * net.parts.size - net.inputs + net.synapses.size + 2 * k
        plastic_step(
            net, random, k, time, step, work.spikes, st.u[lane], st.v[lane], weights, tags, x, y, tx, ty, work,
            tally[at : at + 2],
        )  # fmt: skip


@compiled
def run(inputs, time, first_lane, last_lane, net, random, st, out, counts) -> None:
    """Advance lanes first_lane..last_lane - 1 by the steps of `inputs` (batch, steps, channels)."""
    work = _work(net)
    width = inputs.shape[2]
    for lane in range(first_lane, last_lane):
        for step in range(inputs.shape[1]):
            for i in range(width):
                work.spikes[i] = inputs[lane, step, i]
            _step_neurons(net, st, out, lane, time + step + 1, step, work, counts[lane])
            _step_synapses(net, random, st, lane, time + step + 1, step, work, counts[lane])
