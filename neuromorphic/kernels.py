"""numba kernels of the compiled simulator: one call runs lanes `first..last` for all steps over flat tables.

Arithmetic is `neuromorphic.simulator`'s and `neuromorphic.learning`'s; tests hold the two together bit for bit.
Integers are stored in int32 arrays wherever Lava has 32 bits, so that what overflows wraps as it does there. Loops are
written out: array assignment and reshape would double the time to compile.
"""

# what numba compiles has numba's types, not Python's
# mypy: disable-error-code="no-untyped-def,assignment,return-value,arg-type"

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


# one record per input (kind -1) and population, connection, plastic connection, product, factor; int64 but where said
PART = np.dtype(
    [
        (name, np.int64)
        for name in (
            "start", "size", "kind", "keep_u", "keep_v", "high", "low", "reset_every", "reset_at", "shift", "relu",
        )
    ]
)  # fmt: skip
SYNAPSES = np.dtype(
    [
        (name, np.int64)
        for name in (
            "pre", "post", "target", "exponent", "payload", "depth", "ring", "mode", "weights", "pointers", "plastic",
            "fan",
        )
    ]
)  # fmt: skip
RULE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "connection", "three_factor", "epoch", "decimate", "graded", "low", "high", "weights", "tags", "x", "y",
            "dw", "dt", "end",
        )
    ]
    + [("source", np.int64, 4), ("port", np.int64, 4), ("impulse", np.int64, 5), ("fraction", np.int64, 5)]
    + [("keep", np.float64, 5), ("decays", np.int64, 5)]
)  # fmt: skip
PRODUCT = np.dtype([(name, np.int64) for name in ("dependency", "mantissa", "hidden", "left", "first", "end")])
FACTOR = np.dtype([(name, np.int64) for name in ("state", "constant", "sign", "low", "high")])


class Net(NamedTuple):
    """The network as tables; flat arrays hold what the records' fields `weights`, `pointers` and `fan` point into."""

    inputs: int  # parts that are inputs; they come first
    first: int  # where the populations' spikes begin
    parts: np.ndarray
    bias: np.ndarray
    synapses: np.ndarray
    values: np.ndarray
    pointers: np.ndarray
    posts: np.ndarray
    delays: np.ndarray
    fan_out: np.ndarray
    rules: np.ndarray
    products: np.ndarray
    factors: np.ndarray


class Random(NamedTuple):
    """The draws of one call."""

    decay: np.ndarray  # (rules, 2, 2 * steps)
    impulse: np.ndarray
    synapse: np.ndarray  # flat over rules, rule k from offset[k]
    offset: np.ndarray


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
    """Recorded arrays (batch, steps, width); `columns` (populations, 4) says where a population's begin, or -1."""

    small: np.ndarray
    graded: np.ndarray
    u: np.ndarray
    v: np.ndarray
    columns: np.ndarray
    begin: int


@_compile
def _decay(register: int, keep: int) -> int:
    product = np.int64(register) * keep
    return (product + (4095 & (product >> 63))) >> 12  # toward zero


@_compile
def _shifted(total: int, exponent: int) -> int:
    return total << exponent if exponent > 0 else total >> -exponent


@_compile
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


@_compile
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


@_compile
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


@_compile
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


@_compile
def _add_impulse(trace: int, whole: int, fraction: int, random: int) -> int:
    return min(max(trace + whole + (1 if random < fraction else 0), 0), 127)


@_compile
def _pre_spikes(rule, moment, spikes, payload, x, tx) -> None:
    """x is flat: x1 of every pre neuron, then x2."""
    graded, n_pre = rule.graded, spikes.size
    for i in range(n_pre):
        spike = spikes[i] if payload else np.int32(spikes[i] != 0)
        fired = spike != 0
        again, timed = fired and tx[i] > 0, fired
        if graded == 0:
            if again:
                x[i] = _add_impulse(x[i], rule.impulse[0], rule.fraction[0], 0)
        else:
            half = np.int64(np.rint(spike / 2)) & 255
            if graded == 1:
                if fired:
                    x[i] = half
            else:
                total = (x[i] + half) & 255
                if graded == 2:
                    x[i] = min(total, 127)
                else:
                    over = total > 127
                    timed, again = timed and over, again and over
                    x[i] = total - 127 if over else total
        if again:
            x[n_pre + i] = _add_impulse(x[n_pre + i], rule.impulse[1], rule.fraction[1], 0)
        if timed:
            tx[i] = moment


@_compile
def _history(rule, first, traces, trace, times, history, decay, impulse) -> None:
    """history, flat (epoch + 1, traces, n): the traces at each moment of the epoch; `trace` becomes the last."""
    n, wide = times.size, trace.size
    for i in range(wide):
        history[i] = trace[i]
    for m in range(1, rule.epoch + 1):
        for q in range(traces):
            keep, decays = rule.keep[first + q], rule.decays[first + q]
            whole, fraction = rule.impulse[first + q], rule.fraction[first + q]
            for i in range(n):
                at = m * wide + q * n + i
                value = np.int64(0)
                if decays:
                    exact = keep * history[at - wide]
                    low = np.floor(exact)
                    value = np.int64(low) + (1 if decay < exact - low else 0)
                if times[i] == m:
                    value = _add_impulse(value, whole, fraction, impulse)
                history[at] = value


@_compile
def _is_scalar(factor, dep, epoch) -> bool:
    """Whether a factor is one number for all columns that a product moves."""
    state = factor.state
    return state == S_X0 or (S_X1 <= state <= S_X2 and (dep != Y0 or epoch == 1))


@_compile
def _scalar(factor, dep, epoch, i, tx, pre) -> int:
    raw = np.int64(tx[i] > 0)
    if factor.state != S_X0:
        moment = tx[i] if dep == X0 else epoch
        raw = np.int64(pre[(moment * 2 + factor.state - S_X1) * tx.size + i])
    return min(max(raw + factor.constant, factor.low), factor.high)


@_compile
def _multiply(factor, dep, epoch, i, cols, n, tx, ty, pre, post, w, t, current) -> None:
    """Multiply `current` by a factor at the first `n` columns of `cols`."""
    state, constant, low, high = factor.state, factor.constant, factor.low, factor.high
    n_pre, n_post = tx.size, ty.size
    if S_Y1 <= state <= S_Y3 and dep != Y0 and n == n_post:  # the usual one, without a list
        at = ((tx[i] if dep == X0 else epoch) * 3 + state - S_Y1) * n_post
        for j in range(n_post):
            current[j] *= np.int32(min(max(np.int64(post[at + j]) + constant, low), high))
        return
    for q in range(n):
        j = cols[q]
        if state == S_W:
            raw = np.int64(w[j])
        elif state == S_T:
            raw = np.int64(t[j])
        elif state == S_Y0:
            raw = np.int64(ty[j] > 0)
        elif S_X1 <= state <= S_X2:
            raw = np.int64(pre[(ty[j] * 2 + state - S_X1) * n_pre + i])
        else:
            m = tx[i] if dep == X0 else (ty[j] if dep == Y0 else epoch)
            raw = np.int64(post[(m * 3 + state - S_Y1) * n_post + j])
        raw += constant
        if factor.sign:
            raw = np.int64(raw > 0) - np.int64(raw < 0)
        current[j] *= np.int32(min(max(raw, low), high))


@_compile
def _rounded(total: int, random: float) -> int:
    return (total >> 7) + (1 if random < (total & 127) / 128 else 0)


@_compile
def _add_product(total, current, cols, n, hidden, left) -> None:
    if n == total.size:  # without a list, which vectorizes
        for j in range(n):
            value = np.int32(np.int32(current[j] >> hidden) << left)
            total[j] = min(max(total[j] + min(max(value, BOTTOM), TOP), BOTTOM), TOP)
        return
    for q in range(n):
        j = cols[q]
        value = np.int32(np.int32(current[j] >> hidden) << left)
        total[j] = min(max(total[j] + min(max(value, BOTTOM), TOP), BOTTOM), TOP)


@_compile
def _row(net, begin, stop, u, epoch, i, cols, n, n_fired, tx, ty, pre, post, w, t, base, current, total, tags) -> None:
    """total = base << 7 plus the products, saturating after each, for row `i` and the first `n` columns of cols[0].

    cols[1] lists the `n_fired` columns that fired: products that wait for y0 are 0 elsewhere. Products wrap at 32 bits
    as Lava's do, in whatever order they are taken.
    """
    if n == total.size:
        for j in range(n):
            total[j] = np.int32(base[j]) << 7
    else:
        for q in range(n):
            total[cols[0, q]] = np.int32(base[cols[0, q]]) << 7
    for b in range(begin, stop):
        product = net.products[b]
        dep = product.dependency
        active = cols[1] if dep == Y0 else cols[0]
        count = n_fired if dep == Y0 else n
        scale = np.int32(product.mantissa)
        for f in range(product.first, product.end):
            if _is_scalar(net.factors[f], dep, epoch):
                scale = np.int32(scale * _scalar(net.factors[f], dep, epoch, i, tx, pre))
        if scale == 0 or (dep == X0 and tx[i] == 0) or (dep == U and u == 0):
            count = 0
        if count == total.size:
            for j in range(count):
                current[j] = scale
        else:
            for q in range(count):
                current[active[q]] = scale
        for f in range(product.first, product.end):
            if count > 0 and not _is_scalar(net.factors[f], dep, epoch):
                _multiply(net.factors[f], dep, epoch, i, active, count, tx, ty, pre, post, w, t, current)
        _add_product(total, current, active, count, product.hidden, product.left)
        if tags:  # only a tag can be out of range before a product, and a product of 0 saturates too
            for j in range(n):
                total[j] = min(max(total[j], BOTTOM), TOP)


@_compile
def _store_weights(w, total, low, high, random, cols, n) -> int:
    """Round into w; returns how many changed."""
    changed = 0
    if n == total.size:
        for j in range(n):
            value = total[j]
            value = max(value, np.int32(0)) if low == 0 else value
            value = min(value, np.int32(0)) if high == 0 else value
            new = min(max(_rounded(value, random), low), high)
            changed += new != w[j]
            w[j] = new
        return changed
    for q in range(n):
        j = cols[q]
        value = total[j]
        value = max(value, np.int32(0)) if low == 0 else value
        value = min(value, np.int32(0)) if high == 0 else value
        new = min(max(_rounded(value, random), low), high)
        changed += new != w[j]
        w[j] = new
    return changed


@_compile
def _learn(net, rule, u, w, t, tx, ty, pre, post, random, cols, scratch) -> tuple[int, int]:
    """The rule on all synapses that a product can move; returns how many were computed and how many changed."""
    n_pre, n_post = tx.size, ty.size
    has_tags = rule.tags >= 0
    begin, middle, stop = rule.dw, rule.dt, rule.end
    any_y0, any_u = False, False
    for b in range(begin, middle):
        dependency = net.products[b].dependency
        any_y0 = any_y0 or dependency == Y0
        any_u = any_u or (dependency == U and u != 0)
    evaluated, changed = 0, 0
    current, total, fresh = scratch[0, :n_post], scratch[1, :n_post], scratch[2, :n_post]
    n_fired = 0
    for j in range(n_post):
        if ty[j] > 0:
            cols[1, n_fired] = j
            cols[2, n_fired] = j
            n_fired += 1
    for i in range(n_pre):
        every = tx[i] > 0 or any_u or has_tags
        if not every and (n_fired == 0 or not any_y0):
            continue
        n = n_post if every else n_fired
        lists = cols[0:2] if every else cols[1:3]  # rows: all, fired, fired
        w_row = w[i * n_post : (i + 1) * n_post]
        t_row = t[i * n_post : (i + 1) * n_post]
        if has_tags:  # tags see the weights as they were
            _row(
                net, middle, stop, u, rule.epoch, i, lists, n, n_fired, tx, ty, pre, post, w_row, t_row, t_row,
                current, total, True,
            )  # fmt: skip
            for j in range(n_post):
                fresh[j] = min(max(_rounded(total[j], random), -257), 255)
        if middle > begin:
            _row(
                net, begin, middle, u, rule.epoch, i, lists, n, n_fired, tx, ty, pre, post, w_row, t_row, w_row,
                current, total, False,
            )  # fmt: skip
            changed += _store_weights(w_row, total, rule.low, rule.high, random, lists[0], n)
        if has_tags:
            for j in range(n_post):
                t_row[j] = fresh[j]
        evaluated += n
    return evaluated, changed


@_compile
def _modulator(net, rule, which, spikes, u, v, out) -> None:
    """out = what arrives as y0..y3 (`which`)."""
    source, port = rule.source[which], rule.port[which]
    if source < 0 or port == 3:
        for j in range(out.size):
            out[j] = 0
        return
    part = net.parts[source]
    for j in range(out.size):
        spike = spikes[part.start + j]
        if port < 0:
            out[j] = spike
        elif port == 0:
            n = part.start - net.first + j
            out[j] = np.int32(np.int64(v[n]) - np.int64(u[n])) >> part.shift != 0
        elif port == 1:
            out[j] = max(spike, 0)
        else:
            out[j] = max(-spike, 0)


@_compile
def _plastic_step(net, random, k, time, step, spikes, u, v, weights, tags, x, y, tx, ty, work, tally) -> None:
    """Traces, and at the end of an epoch the rule, of plastic connection `k` in one lane; its arrays are flat."""
    rule = net.rules[k]
    own = net.synapses[rule.connection]
    pre_start, post_start = net.parts[own.pre].start, net.parts[own.post].start
    n_pre, n_post = tx.size, ty.size
    epoch = rule.epoch
    moment = time % epoch if time % epoch != 0 else epoch
    _pre_spikes(rule, moment, spikes[pre_start : pre_start + n_pre], own.payload > 0, x, tx)
    gate = work.gate[:n_post]
    if rule.three_factor:
        _modulator(net, rule, 0, spikes, u, v, gate)
    else:
        for j in range(n_post):
            gate[j] = spikes[post_start + j]
        between = random.impulse[k, 1, 2 * step]
        for j in range(n_post):
            if gate[j] != 0 and ty[j] > 0:
                for q in range(3):
                    y[q * n_post + j] = _add_impulse(
                        y[q * n_post + j], rule.impulse[2 + q], rule.fraction[2 + q], between
                    )
    for j in range(n_post):
        if gate[j] != 0:
            ty[j] = moment
    if rule.three_factor:
        for q in range(3):
            _modulator(net, rule, q + 1, spikes, u, v, gate)
            for j in range(n_post):
                y[q * n_post + j] = gate[j]
    if time % epoch != 0:
        return
    pre, post, last = work.pre, work.post, 2 * step + 1
    _history(rule, 0, 2, x, tx, pre, random.decay[k, 0, last], random.impulse[k, 0, last])
    _history(rule, 2, 3, y, ty, post, random.decay[k, 1, last], random.impulse[k, 1, last])
    for i in range(x.size):
        x[i] = pre[epoch * x.size + i]
    if not rule.three_factor:
        for j in range(y.size):
            y[j] = post[epoch * y.size + j]
    applies = 1 if (time // epoch) % (1 << rule.decimate) == 0 else 0
    drawn = random.synapse[random.offset[k] + time // epoch - (time - step - 1) // epoch - 1]
    evaluated, changed = _learn(net, rule, applies, weights, tags, tx, ty, pre, post, drawn, work.columns, work.scratch)
    tally[0] += evaluated
    tally[1] += changed
    for i in range(n_pre):
        tx[i] = 0
    for j in range(n_post):
        ty[j] = 0


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


@_compile
def _copy(source, target, start) -> None:
    for j in range(source.size):
        target[start + j] = source[j]


@_compile
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


@_compile
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
        _plastic_step(
            net, random, k, time, step, work.spikes, st.u[lane], st.v[lane], weights, tags, x, y, tx, ty, work,
            tally[at : at + 2],
        )  # fmt: skip


@_compile
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
