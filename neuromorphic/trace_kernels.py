"""numba kernels of the traces that learning rules read."""

# what numba compiles has numba's types, not Python's
# mypy: disable-error-code="no-untyped-def,assignment,return-value,arg-type"

from __future__ import annotations

import numpy as np

from neuromorphic.kernel_tables import compiled


@compiled
def add_impulse(trace: int, whole: int, fraction: int, random: int) -> int:
    """A trace after a spike, 0..127."""
    return min(max(trace + whole + (1 if random < fraction else 0), 0), 127)


@compiled
def pre_spikes(rule, moment, spikes, payload, x, tx) -> None:
    """Pre traces and spike times; x is flat: x1 of every pre neuron, then x2."""
    graded, n_pre = rule.graded, spikes.size
    for i in range(n_pre):
        spike = spikes[i] if payload else np.int32(spikes[i] != 0)
        fired = spike != 0
        again, timed = fired and tx[i] > 0, fired
        if graded == 0:
            if again:
                x[i] = add_impulse(x[i], rule.impulse[0], rule.fraction[0], 0)
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
            x[n_pre + i] = add_impulse(x[n_pre + i], rule.impulse[1], rule.fraction[1], 0)
        if timed:
            tx[i] = moment


@compiled
def trace_history(rule, first, traces, trace, times, history, decay, impulse) -> None:
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
                    value = add_impulse(value, whole, fraction, impulse)
                history[at] = value
