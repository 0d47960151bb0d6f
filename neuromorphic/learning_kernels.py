"""numba kernels of learning: traces, products, weights of one plastic connection in one lane.

Arithmetic is `neuromorphic.learning`'s; tests hold the two together bit for bit. Loops are written out: array
assignment and reshape would double the time to compile.
"""

# what numba compiles has numba's types, not Python's
# mypy: disable-error-code="no-untyped-def,assignment,return-value,arg-type"

from __future__ import annotations

import numpy as np

from neuromorphic.kernel_tables import BOTTOM, S_T, S_W, S_X0, S_X1, S_X2, S_Y0, S_Y1, S_Y3, TOP, X0, Y0, U, compiled
from neuromorphic.trace_kernels import add_impulse, pre_spikes, trace_history


@compiled
def _is_scalar(factor, dep, epoch) -> bool:
    """Whether a factor is one number for all columns that a product moves."""
    state = factor.state
    return state == S_X0 or (S_X1 <= state <= S_X2 and (dep != Y0 or epoch == 1))


@compiled
def _scalar(factor, dep, epoch, i, tx, pre) -> int:
    raw = np.int64(tx[i] > 0)
    if factor.state != S_X0:
        moment = tx[i] if dep == X0 else epoch
        raw = np.int64(pre[(moment * 2 + factor.state - S_X1) * tx.size + i])
    return min(max(raw + factor.constant, factor.low), factor.high)


@compiled
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


@compiled
def _rounded(total: int, random: float) -> int:
    return (total >> 7) + (1 if random < (total & 127) / 128 else 0)


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
def plastic_step(net, random, k, time, step, spikes, u, v, weights, tags, x, y, tx, ty, work, tally) -> None:
    """Traces, and at the end of an epoch the rule, of plastic connection `k` in one lane; its arrays are flat."""
    rule = net.rules[k]
    own = net.synapses[rule.connection]
    pre_start, post_start = net.parts[own.pre].start, net.parts[own.post].start
    n_pre, n_post = tx.size, ty.size
    epoch = rule.epoch
    moment = time % epoch if time % epoch != 0 else epoch
    pre_spikes(rule, moment, spikes[pre_start : pre_start + n_pre], own.payload > 0, x, tx)
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
                    y[q * n_post + j] = add_impulse(
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
    trace_history(rule, 0, 2, x, tx, pre, random.decay[k, 0, last], random.impulse[k, 0, last])
    trace_history(rule, 2, 3, y, ty, post, random.decay[k, 1, last], random.impulse[k, 1, last])
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
