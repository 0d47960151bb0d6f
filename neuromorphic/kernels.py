"""numba kernels of the compiled simulator: one call runs lanes `first..last` for all steps over flat tables.

Arithmetic is `neuromorphic.simulator`'s and `neuromorphic.learning`'s; tests hold the two together bit for bit. Integers
are stored in int32 arrays wherever Lava has 32 bits, so that what overflows wraps as it does there.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

LIF, TERNARY, GRADED, ERROR = 0, 1, 2, 3
ROWS, SPARSE, DELAYED = 0, 1, 2  # how a static connection's weights lie
X0, Y0, U = 0, 1, 2  # dependencies
S_X0, S_Y0, S_X1, S_X2, S_Y1, S_Y2, S_Y3, S_W, S_T = range(9)  # states of factors
REGISTER = 1 << 23
TOP = (1 << 15) - 1
BOTTOM = -(1 << 15) - 1

_compile = numba.njit(cache=True, nogil=True)


class Parts(NamedTuple):
    """Inputs and populations: a row per part in `start` and `size`, a row per population in the others."""

    start: np.ndarray  # of its spikes
    size: np.ndarray
    kind: np.ndarray
    keep_u: np.ndarray  # 4096 - (du + 1), or 4096 - decay
    keep_v: np.ndarray
    high: np.ndarray
    low: np.ndarray
    reset_every: np.ndarray
    reset_at: np.ndarray
    shift: np.ndarray
    relu: np.ndarray
    bias: np.ndarray  # (neurons,) int32


class Synapses(NamedTuple):
    """A row per connection; the last arrays are flat."""

    pre: np.ndarray  # part
    post: np.ndarray  # part
    target: np.ndarray  # 1: the port "target"
    exponent: np.ndarray
    payload: np.ndarray
    depth: np.ndarray  # 1 + longest delay
    buffer: np.ndarray  # where its ring begins
    mode: np.ndarray
    weights: np.ndarray  # where its weights begin in `values`
    columns: np.ndarray  # where its row pointers begin in `pointers`
    plastic: np.ndarray  # number of the plastic connection, or -1
    fan: np.ndarray  # where its fan-outs begin in `fan_out`
    values: np.ndarray
    pointers: np.ndarray
    index: np.ndarray
    delay: np.ndarray
    fan_out: np.ndarray


class Rules(NamedTuple):
    """A row per plastic connection, then per product, then per factor."""

    connection: np.ndarray
    three_factor: np.ndarray
    epoch: np.ndarray
    decimate: np.ndarray
    graded: np.ndarray
    low: np.ndarray  # range of a weight
    high: np.ndarray
    weights: np.ndarray  # where its learned weights begin
    tags: np.ndarray  # where its tags begin, or -1
    x: np.ndarray  # where its pre traces begin
    y: np.ndarray
    sources: np.ndarray  # (rules, 4): part of y0, y1, y2, y3, or -1
    ports: np.ndarray  # (rules, 4): -1 spikes; 0..3 an error unit's y0..y3
    impulse: np.ndarray  # (rules, 5)
    fraction: np.ndarray
    keep: np.ndarray  # (rules, 5) float64
    decays: np.ndarray  # (rules, 5): tau is not 0
    products: np.ndarray  # (rules, 3): first of dw, first of dt, end
    product: np.ndarray  # (products, 6): dependency, mantissa, hidden shift, left shift, first factor, end
    factor: np.ndarray  # (factors, 5): state, constant, sign, low, high


class Random(NamedTuple):
    """The draws of one call."""

    decay: np.ndarray  # (rules, 2, 2 * steps)
    impulse: np.ndarray
    synapse: np.ndarray  # flat over rules
    first: np.ndarray


class State(NamedTuple):
    """Everything that changes, a row per lane."""

    u: np.ndarray
    v: np.ndarray
    buffer: np.ndarray
    weights: np.ndarray
    tags: np.ndarray
    x: np.ndarray
    y: np.ndarray
    tx: np.ndarray
    ty: np.ndarray


class Out(NamedTuple):
    """Recorded arrays (batch, steps, width), and per population where its columns begin, or -1."""

    small: np.ndarray
    graded: np.ndarray
    u: np.ndarray
    v: np.ndarray
    at_small: np.ndarray
    at_graded: np.ndarray
    at_u: np.ndarray
    at_v: np.ndarray
    begin: int


@_compile
def _decay(register: int, keep: int) -> int:
    product = np.int64(register) * keep
    return (product + (4095 & (product >> 63))) >> 12  # toward zero


@_compile
def _shifted(total: int, exponent: int) -> int:
    return total << exponent if exponent > 0 else total >> -exponent


@_compile
def _fire_lif(a, u, v, fired, bias, keep_u, keep_v, high, low, ternary) -> None:  # type: ignore[no-untyped-def]
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


@_compile
def _fire(p, k, time, a, target, fired, u, v) -> None:  # type: ignore[no-untyped-def]
    """One population, `k`; arrays are its own slices."""
    kind = p.kind[k]
    if kind == GRADED:
        for j in range(a.size):
            passes = a[j] > p.high[k] if p.relu[k] else abs(np.int64(a[j])) > p.high[k]
            fired[j] = a[j] if passes else 0
        return
    if kind == ERROR:
        for j in range(a.size):
            u[j] = _decay(u[j], p.keep_u[k]) + a[j]
            v[j] = _decay(v[j], p.keep_v[k]) + target[j]
            error = np.int32(np.int64(v[j]) - np.int64(u[j])) >> p.shift[k]
            fired[j] = min(max(error, -127), 127)
        return
    if p.reset_every[k] > 0 and time % p.reset_every[k] == p.reset_at[k]:
        u[:] = 0
        v[:] = 0
    start = p.start[k + p.start.size - p.kind.size] - p.start[p.start.size - p.kind.size]
    bias = p.bias[start : start + a.size]
    _fire_lif(a, u, v, fired, bias, p.keep_u[k], p.keep_v[k], p.high[k], p.low[k], kind == TERNARY)


@_compile
def _read_static(s, c, spikes, active, count, ring, moment, total, spread) -> None:  # type: ignore[no-untyped-def]
    """Add what a static connection makes of the active sources to its ring (depth, n_post)."""
    n_post, exponent, payload = ring.shape[1], s.exponent[c], s.payload[c]
    depth = s.depth[c]
    if s.mode[c] == DELAYED:
        spread[: depth * n_post] = 0
        for e in range(count):
            i = active[e]
            value = np.int64(spikes[i]) if payload else np.int64(1)
            for q in range(s.pointers[s.columns[c] + i], s.pointers[s.columns[c] + i + 1]):
                spread[s.delay[q] * n_post + s.index[q]] += value * s.values[q]
        for k in range(depth):
            row = ring[(moment + k) % depth]
            for j in range(n_post):
                row[j] += _shifted(spread[k * n_post + j], exponent)
        return
    total[:n_post] = 0
    for e in range(count):
        i = active[e]
        value = np.int32(spikes[i]) if payload else np.int32(1)
        if s.mode[c] == SPARSE:
            for q in range(s.pointers[s.columns[c] + i], s.pointers[s.columns[c] + i + 1]):
                total[s.index[q]] += value * np.int32(s.values[q])
        else:
            begin = s.weights[c] + i * n_post
            row16 = s.values[begin : begin + n_post]
            if payload:
                for j in range(n_post):
                    total[j] += value * np.int32(row16[j])
            else:
                for j in range(n_post):
                    total[j] += np.int32(row16[j])
    row = ring[0]
    for j in range(n_post):
        row[j] = _shifted(total[j], exponent)


@_compile
def _read_plastic(weights, spikes, active, count, payload, exponent, row, total) -> None:  # type: ignore[no-untyped-def]
    n_post = row.size
    total[:n_post] = 0
    for e in range(count):
        i = active[e]
        value = np.int32(spikes[i]) if payload else np.int32(1)
        for j in range(n_post):
            total[j] += value * np.int32(weights[i, j])
    for j in range(n_post):
        row[j] = _shifted(total[j], exponent)


@_compile
def _add_impulse(trace: int, whole: int, fraction: int, random: int) -> int:
    return min(max(trace + whole + (1 if random < fraction else 0), 0), 127)


@_compile
def _pre_spikes(r, k, moment, spikes, payload, x, tx) -> None:  # type: ignore[no-untyped-def]
    graded = r.graded[k]
    for i in range(spikes.size):
        spike = spikes[i] if payload else np.int32(spikes[i] != 0)
        fired = spike != 0
        again, timed = fired and tx[i] > 0, fired
        if graded == 0:
            if again:
                x[0, i] = _add_impulse(x[0, i], r.impulse[k, 0], r.fraction[k, 0], 0)
        else:
            half = np.int64(np.rint(spike / 2)) & 255
            if graded == 1:
                if fired:
                    x[0, i] = half
            else:
                total = (x[0, i] + half) & 255
                if graded == 2:
                    x[0, i] = min(total, 127)
                else:
                    over = total > 127
                    timed, again = timed and over, again and over
                    x[0, i] = total - 127 if over else total
        if again:
            x[1, i] = _add_impulse(x[1, i], r.impulse[k, 1], r.fraction[k, 1], 0)
        if timed:
            tx[i] = moment


@_compile
def _history(r, k, first, trace, times, history, decay, impulse) -> None:  # type: ignore[no-untyped-def]
    """history (epoch + 1, traces, n): the traces at each moment of the epoch."""
    history[0] = trace
    for m in range(1, history.shape[0]):
        for q in range(trace.shape[0]):
            keep, decays = r.keep[k, first + q], r.decays[k, first + q]
            whole, fraction = r.impulse[k, first + q], r.fraction[k, first + q]
            for i in range(trace.shape[1]):
                value = np.int64(0)
                if decays:
                    exact = keep * history[m - 1, q, i]
                    low = np.floor(exact)
                    value = np.int64(low) + (1 if decay < exact - low else 0)
                if times[i] == m:
                    value = _add_impulse(value, whole, fraction, impulse)
                history[m, q, i] = value


@_compile
def _factor(r, f, dep, i, cols, n, tx, ty, pre, post, w, t, current) -> None:  # type: ignore[no-untyped-def]
    """Multiply `current` by factor `f` for row `i` and the columns listed."""
    state, constant, sign, low, high = r.factor[f, 0], r.factor[f, 1], r.factor[f, 2], r.factor[f, 3], r.factor[f, 4]
    end = pre.shape[0] - 1
    if state == S_X0 or ((state == S_X1 or state == S_X2) and dep != Y0):
        if state == S_X0:
            raw = np.int64(tx[i] > 0)
        else:
            raw = np.int64(pre[tx[i] if dep == X0 else end, state - S_X1, i])
        value = np.int32(min(max(raw + constant, low), high))
        for q in range(n):
            current[q] *= value
        return
    for q in range(n):
        j = cols[q]
        if state == S_W:
            raw = np.int64(w[j])
        elif state == S_T:
            raw = np.int64(t[j])
        elif state == S_Y0:
            raw = np.int64(ty[j] > 0)
        elif state == S_X1 or state == S_X2:
            raw = np.int64(pre[ty[j], state - S_X1, i])
        else:
            m = tx[i] if dep == X0 else (ty[j] if dep == Y0 else end)
            raw = np.int64(post[m, state - S_Y1, j])
        raw += constant
        if sign:
            raw = np.int64(raw > 0) - np.int64(raw < 0)
        current[q] *= np.int32(min(max(raw, low), high))


@_compile
def _row(r, begin, end, u, i, cols, n, tx, ty, pre, post, w, t, base, current, total) -> None:  # type: ignore[no-untyped-def]
    """total = base << 7 plus the products, saturating after each, for row `i` and the columns listed."""
    for q in range(n):
        total[q] = np.int32(base[cols[q]]) << 7
    for b in range(begin, end):
        dep, mantissa = r.product[b, 0], np.int32(r.product[b, 1])
        hidden, left = r.product[b, 2], r.product[b, 3]
        if (dep == X0 and tx[i] == 0) or (dep == U and u == 0):
            for q in range(n):  # a product of 0 still saturates
                total[q] = min(max(total[q], BOTTOM), TOP)
            continue
        for q in range(n):
            current[q] = 1 if dep != Y0 else np.int32(ty[cols[q]] > 0)
        for f in range(r.product[b, 4], r.product[b, 5]):
            _factor(r, f, dep, i, cols, n, tx, ty, pre, post, w, t, current)
        for q in range(n):
            value = np.int32(current[q] * mantissa) >> hidden
            value = np.int32(value << left)
            total[q] = min(max(total[q] + min(max(value, BOTTOM), TOP), BOTTOM), TOP)


@_compile
def _rounded(total: int, random: float) -> int:
    return (total >> 7) + (1 if random < (total & 127) / 128 else 0)


@_compile
def _learn(r, k, u, w, t, tx, ty, pre, post, random, cols, scratch) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """The rule on all synapses that a product can move; returns how many were computed and how many changed."""
    n_pre, n_post = w.shape
    has_tags = r.tags[k] >= 0
    begin, middle, end = r.products[k, 0], r.products[k, 1], r.products[k, 2]
    only_x0, any_u = True, False
    for b in range(begin, end):
        only_x0 = only_x0 and r.product[b, 0] == X0
        any_u = any_u or (r.product[b, 0] == U and u != 0)
    evaluated, changed = 0, 0
    current, total, fresh = scratch[0], scratch[1], scratch[2]
    n_fired = 0
    for j in range(n_post):
        if ty[j] > 0:
            cols[1, n_fired] = j
            n_fired += 1
        cols[0, j] = j
    for i in range(n_pre):
        every = tx[i] > 0 or any_u or has_tags
        if not every and (only_x0 or n_fired == 0):
            continue
        list_, n = (cols[0], n_post) if every else (cols[1], n_fired)
        tag_row = t[i] if has_tags else w[i]
        if has_tags:  # tags see the weights as they were
            _row(r, middle, end, u, i, list_, n, tx, ty, pre, post, w[i], tag_row, tag_row, current, total)
            for q in range(n):
                fresh[q] = min(max(_rounded(total[q], random), -257), 255)
        if middle > begin:
            _row(r, begin, middle, u, i, list_, n, tx, ty, pre, post, w[i], tag_row, w[i], current, total)
            for q in range(n):
                j = list_[q]
                value = total[q]
                if r.low[k] == 0:
                    value = max(value, np.int32(0))
                if r.high[k] == 0:
                    value = min(value, np.int32(0))
                new = min(max(_rounded(value, random), r.low[k]), r.high[k])
                changed += new != w[i, j]
                w[i, j] = new
        if has_tags:
            for q in range(n):
                t[i, list_[q]] = fresh[q]
        evaluated += n
    return evaluated, changed


@_compile
def _modulator(p, s, r, k, which, spikes, u, v, first, out) -> None:  # type: ignore[no-untyped-def]
    """out = what arrives as y0..y3 (`which`) of rule `k`."""
    part, port = r.sources[k, which], r.ports[k, which]
    if part < 0 or port == 3:
        out[:] = 0
        return
    start = p.start[part]
    for j in range(out.size):
        spike = spikes[start + j]
        if port < 0:
            out[j] = spike
        elif port == 0:
            number = part - (p.start.size - p.kind.size)
            out[j] = np.int32(np.int64(v[start - first + j]) - np.int64(u[start - first + j])) >> p.shift[number] != 0
        elif port == 1:
            out[j] = max(spike, 0)
        else:
            out[j] = max(-spike, 0)


@_compile
def _plastic_step(
    p, s, r, g, k, time, step, spikes, active_u, active_v, first, weights, tags, x, y, tx, ty, work, tally
):  # type: ignore[no-untyped-def]
    """Traces, and at the end of an epoch the rule, of plastic connection `k` in one lane."""
    c = r.connection[k]
    pre_start, post_start = p.start[s.pre[c]], p.start[s.post[c]]
    n_pre, n_post = x.shape[1], y.shape[1]
    epoch = r.epoch[k]
    moment = time % epoch if time % epoch != 0 else epoch
    _pre_spikes(r, k, moment, spikes[pre_start : pre_start + n_pre], s.payload[c] > 0, x, tx)
    gate = work.gate[:n_post]
    if r.three_factor[k]:
        _modulator(p, s, r, k, 0, spikes, active_u, active_v, first, gate)
    else:
        gate[:] = spikes[post_start : post_start + n_post]
        between = g.impulse[k, 1, 2 * step]
        for j in range(n_post):
            if gate[j] != 0 and ty[j] > 0:
                for q in range(3):
                    y[q, j] = _add_impulse(y[q, j], r.impulse[k, 2 + q], r.fraction[k, 2 + q], between)
    for j in range(n_post):
        if gate[j] != 0:
            ty[j] = moment
    if r.three_factor[k]:
        for q in range(3):
            _modulator(p, s, r, k, q + 1, spikes, active_u, active_v, first, gate)
            y[q] = gate
    if time % epoch != 0:
        return
    pre = work.pre[: (epoch + 1) * 2 * n_pre].reshape((epoch + 1, 2, n_pre))
    post = work.post[: (epoch + 1) * 3 * n_post].reshape((epoch + 1, 3, n_post))
    _history(r, k, 0, x, tx, pre, g.decay[k, 0, 2 * step + 1], g.impulse[k, 0, 2 * step + 1])
    _history(r, k, 2, y, ty, post, g.decay[k, 1, 2 * step + 1], g.impulse[k, 1, 2 * step + 1])
    x[:] = pre[epoch]
    if not r.three_factor[k]:
        y[:] = post[epoch]
    u = 1 if (time // epoch) % (1 << r.decimate[k]) == 0 else 0
    drawn = g.synapse[g.first[k] + time // epoch - (time - step - 1) // epoch - 1]
    evaluated, changed = _learn(r, k, u, weights, tags, tx, ty, pre, post, drawn, work.columns, work.scratch)
    tally[0] += evaluated
    tally[1] += changed
    tx[:] = 0
    ty[:] = 0


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


@_compile
def _work(p, s, r) -> Work:  # type: ignore[no-untyped-def]
    n_parts, first = p.start.size, p.start[p.start.size - p.kind.size]
    width = p.start[n_parts - 1] + p.size[n_parts - 1]
    spread, pre, post = 1, 1, 1
    for c in range(s.pre.size):
        if s.mode[c] == DELAYED:
            spread = max(spread, s.depth[c] * p.size[s.post[c]])
    for k in range(r.connection.size):
        c = r.connection[k]
        pre = max(pre, (r.epoch[k] + 1) * 2 * p.size[s.pre[c]])
        post = max(post, (r.epoch[k] + 1) * 3 * p.size[s.post[c]])
    widest = p.size.max()
    return Work(
        np.zeros(width, np.int32),
        np.zeros(width, np.int32),
        np.zeros(n_parts, np.int64),
        np.zeros(width - first, np.int32),
        np.zeros(width - first, np.int32),
        np.zeros(widest, np.int32),
        np.zeros(spread, np.int64),
        np.zeros(widest, np.int32),
        np.zeros(pre, np.int32),
        np.zeros(post, np.int32),
        np.zeros((2, widest), np.int64),
        np.zeros((3, widest), np.int32),
    )


@_compile
def _step(p, s, r, g, st, out, lane, time, step, work, tally) -> None:  # type: ignore[no-untyped-def]
    """One step of one lane; the inputs' spikes lie in work.spikes already."""
    n_parts, n_pop, n_conn = p.start.size, p.kind.size, s.pre.size
    first = p.start[n_parts - n_pop]
    work.a[:] = 0
    work.target[:] = 0
    for c in range(n_conn):
        size = p.size[s.post[c]]
        begin = s.buffer[c] + ((time - 1) % s.depth[c]) * size
        row = st.buffer[lane, begin : begin + size]
        start = p.start[s.post[c]] - first
        into = work.target[start : start + size] if s.target[c] else work.a[start : start + size]
        for j in range(size):
            into[j] += row[j]
        row[:] = 0
    for k in range(n_pop):
        part = k + n_parts - n_pop
        start, size = p.start[part] - first, p.size[part]
        a, target = work.a[start : start + size], work.target[start : start + size]
        fired = work.spikes[first + start : first + start + size]
        u, v = st.u[lane, start : start + size], st.v[lane, start : start + size]
        _fire(p, k, time, a, target, fired, u, v)
        driven = 0
        for j in range(size):
            driven += (a[j] != 0) | (target[j] != 0)
        tally[n_parts + n_conn + k] += driven
        t = out.begin + step
        if out.at_small[k] >= 0:
            out.small[lane, t, out.at_small[k] : out.at_small[k] + size] = fired
        if out.at_graded[k] >= 0:
            out.graded[lane, t, out.at_graded[k] : out.at_graded[k] + size] = fired
        if out.at_u[k] >= 0:
            out.u[lane, t, out.at_u[k] : out.at_u[k] + size] = u
        if out.at_v[k] >= 0:
            out.v[lane, t, out.at_v[k] : out.at_v[k] + size] = v
    for part in range(n_parts):
        count, start = 0, p.start[part]
        for i in range(p.size[part]):
            work.active[start + count] = i
            count += work.spikes[start + i] != 0
        work.count[part] = count
        tally[part] += count
    for c in range(n_conn):
        pre, size = s.pre[c], p.size[s.post[c]]
        spikes = work.spikes[p.start[pre] : p.start[pre] + p.size[pre]]
        active, count = work.active[p.start[pre] : p.start[pre] + p.size[pre]], work.count[pre]
        ring = st.buffer[lane, s.buffer[c] : s.buffer[c] + s.depth[c] * size].reshape((s.depth[c], size))
        for e in range(count):
            tally[n_parts + c] += s.fan_out[s.fan[c] + active[e]]
        k = s.plastic[c]
        if k < 0:
            _read_static(s, c, spikes, active, count, ring, time, work.total, work.spread)
            continue
        n_pre = p.size[pre]
        begin = r.weights[k]
        weights = st.weights[lane, begin : begin + n_pre * size].reshape((n_pre, size))
        _read_plastic(weights, spikes, active, count, s.payload[c] > 0, s.exponent[c], ring[0], work.total)
        tags = weights
        if r.tags[k] >= 0:
            tags = st.tags[lane, r.tags[k] : r.tags[k] + n_pre * size].reshape((n_pre, size))
        x = st.x[lane, 2 * r.x[k] : 2 * (r.x[k] + n_pre)].reshape((2, n_pre))
        y = st.y[lane, 3 * r.y[k] : 3 * (r.y[k] + size)].reshape((3, size))
        tx, ty = st.tx[lane, r.x[k] : r.x[k] + n_pre], st.ty[lane, r.y[k] : r.y[k] + size]
        at = n_parts + n_conn + n_pop + 2 * k
        _plastic_step(
            p, s, r, g, k, time, step, work.spikes, st.u[lane], st.v[lane], first, weights, tags, x, y, tx, ty, work,
            tally[at : at + 2],
        )  # fmt: skip


@_compile
def run(inputs, time, first_lane, last_lane, p, s, r, g, st, out, counts) -> None:  # type: ignore[no-untyped-def]
    """Advance lanes first_lane..last_lane - 1 by the steps of `inputs` (batch, steps, channels)."""
    work = _work(p, s, r)
    width = inputs.shape[2]
    for lane in range(first_lane, last_lane):
        for step in range(inputs.shape[1]):
            work.spikes[:width] = inputs[lane, step]
            _step(p, s, r, g, st, out, lane, time + step + 1, step, work, counts[lane])
