# ruff: noqa: B905, E501, E741
"""Numpy reference of Lava 0.10.0 fixed_pt LIF / TernaryLIF / Dense / DelayDense, and of LearningDense.

From shared/notes/lava.md, appendices A and B: written and checked against Lava before, and independently of, the
simulators here. Style as it came.

Sources mirrored: lava/proc/lif/models.py (AbstractPyLifModelFixed, PyLifModelBitAcc, PyTernLifModelFixed),
lava/proc/dense/models.py (AbstractPyDenseModelBitAcc, PyDelayDenseModelBitAcc), lava/utils/weightutils.py.
Pure numpy (any version >= 1.24, Python >= 3.8); no Lava import.
"""

import numpy as np

MAX = 1 << 23  # u, v are 24-bit signed registers


def quantize_weights(w, num_weight_bits=8, sign_mode=None):
    """clip_weights + truncate_weights -> the int32 weights Lava really uses."""
    w = np.array(w).astype(np.int32)  # astype truncates floats toward zero
    if sign_mode is None:  # determine_sign_mode
        sign_mode = "exc" if w.min() >= 0 else "inh" if w.max() <= 0 else "mixed"
    mixed = sign_mode == "mixed"
    if sign_mode == "inh":
        w = -w
    w = np.clip(w, -256 if mixed else 0, 255)
    shift = 8 - num_weight_bits + mixed  # mixed: sign costs one bit -> LSB is dropped (even weights)
    w = (w >> shift) << shift  # arithmetic shift: floor toward -inf
    return -w if sign_mode == "inh" else w


class Dense:
    """a_out(t) = shift(W s(t-1)): Lava sends the buffered accumulation of the PREVIOUS step."""

    def __init__(self, weights, weight_exp=0, num_weight_bits=8, num_message_bits=0, sign_mode=None, delays=None):
        self.w = quantize_weights(weights, num_weight_bits, sign_mode)
        self.exp, self.graded = weight_exp, num_message_bits > 0
        self.d = None if delays is None else np.broadcast_to(np.asarray(delays, int), self.w.shape)
        self.buf = np.zeros((1 if delays is None else int(self.d.max()) + 1, self.w.shape[0]), np.int32)

    def out(self):
        return self.buf[0].copy()

    def take(self, s):
        s = np.asarray(s) if self.graded else np.asarray(s).astype(bool)
        for k in range(len(self.buf)):  # k = extra synaptic delay, 0..63 on Loihi 2
            w = self.w if self.d is None else np.where(self.d == k, self.w, 0)
            acc = w.dot(s) if self.graded else w[:, s].sum(axis=1)
            acc = acc << self.exp if self.exp > 0 else acc >> -self.exp
            nxt = self.buf[k + 1] if k + 1 < len(self.buf) else 0
            self.buf[k] = nxt + acc.astype(np.int32)


class LIF:
    def __init__(self, n, du=0, dv=0, vth=10, bias_mant=0, bias_exp=0, vth_lo=None):
        self.u, self.v = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.du, self.dv = int(du) + 1, int(dv)  # ds_offset = 1, dm_offset = 0
        self.th = int(vth) << 6
        self.lo = None if vth_lo is None else int(vth_lo) << 6  # TernaryLIF
        bm, be = (np.broadcast_to(np.asarray(x, np.int32), (n,)) for x in (bias_mant, bias_exp))
        self.bias = np.where(be >= 0, bm << np.maximum(be, 0), bm >> np.maximum(-be, 0)).astype(np.int32)

    @staticmethod
    def _decay(x, d):  # sign-magnitude: rounds toward zero
        p = x.astype(np.int64) * (4096 - d)
        return (np.sign(p) * (np.abs(p) >> 12)).astype(np.int32)

    def step(self, a):
        x = self._decay(self.u, self.du) + (np.asarray(a, np.int32) << 6)
        w = np.where(x > MAX, x - 2 * MAX, x)  # u WRAPS (one turn), v SATURATES
        self.u = np.where(w <= -MAX, x + 2 * MAX, w).astype(np.int32)
        self.v = np.clip(self._decay(self.v, self.dv) + self.u + self.bias, -MAX + 1, MAX - 1).astype(np.int32)
        s = (self.v > self.th).astype(np.int32)  # strict >
        if self.lo is not None:
            s -= (self.v < self.lo).astype(np.int32)
        self.v[s != 0] = 0
        return s


def run_chain(layers, x):
    """layers = [Dense, LIF, Dense, LIF, ...]; x: (n_in, T). Returns list of (spikes, u, v), each (n, T).
    Lava order inside a step: every Dense sends its buffer, then every LIF fires, then Dense reads the new spikes."""
    T, out = x.shape[1], [[np.zeros((l.u.size, x.shape[1]), np.int32) for _ in range(3)] for l in layers[1::2]]
    for t in range(T):
        s = x[:, t]
        for k, (syn, lif) in enumerate(zip(layers[::2], layers[1::2])):
            a = syn.out()
            syn.take(s)
            s = lif.step(a)
            for o, val in zip(out[k], (s, lif.u, lif.v)):
                o[:, t] = val
    return out


WIDTH = dict(x1=7, x2=7, y1=7, y2=7, y3=7, w=9)
ACC = 1 << 15


class _TraceRandom:  # ONE scalar per step shared by all traces of a side
    def __init__(self, seed):
        self.d, self.i = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        self.advance()

    def advance(self):
        self.decay = self.d.random(1)[0]
        self.imp = self.i.integers(0, 128, size=1, dtype=int)[0]


class LearningDenseReference:
    def __init__(
        self,
        weights,
        rule,
        rng_seed,
        three_factor,
        x_imp=(0, 0),
        x_tau=(0, 0),
        y_imp=(0, 0, 0),
        y_tau=(0, 0, 0),
        weight_exp=0,
        num_weight_bits=8,
    ):
        self.w = (np.asarray(weights).astype(np.int32) >> (9 - num_weight_bits)) << (
            9 - num_weight_bits
        )  # MIXED by default, no clip at init
        m, n = self.w.shape
        self.rule, self.exp, self.tf = rule, weight_exp, three_factor
        if three_factor:
            y_imp, y_tau = (0, 0, 0), (65535,) * 3
        self.x, self.y = np.zeros((2, n), int), np.zeros((3, m), int)
        self.par = [(np.asarray(i, float), np.asarray(t, float)) for i, t in ((x_imp, x_tau), (y_imp, y_tau))]
        self.rx, self.ry = _TraceRandom(rng_seed), _TraceRandom(rng_seed + 2)
        self.rw = np.random.default_rng(2)  # ConnVarRandom: seed is always 2
        self.rw.random(1)
        self.buf = np.zeros(m, np.int32)

    def out(self):
        return self.buf.copy()

    @staticmethod
    def _sround(v, rnd):  # stochastic_round(floor, frac)
        f = np.floor(v)
        return (f + (rnd < v % 1)).astype(int)

    def _history(self, tr, spk, par, r):
        (imp, tau), h = par, np.zeros_like(tr)
        on = tau != 0
        h[on] = self._sround(np.exp(-1 / tau[on][:, None]) * tr[on], r.decay)
        ii, fr = np.floor(imp).astype(int), np.round((imp - np.floor(imp)) * 256).astype(int)
        h[:, spk] = np.clip(h[:, spk] + ii[:, None] + (r.imp < fr)[:, None], 0, 127)  # clip only where a spike arrived
        return h

    def take(self, s_in, bap, y_in=None):
        """s_in: pre spikes (n,), bap: post gate y0 (m,), y_in: (y1, y2, y3) sent by the post neuron (three-factor rules)."""
        s, b = np.asarray(s_in).astype(bool), np.asarray(bap).astype(bool)
        acc = self.w[:, s].sum(axis=1)
        self.buf = (acc << self.exp if self.exp > 0 else acc >> -self.exp).astype(np.int32)
        for r in (self.rx, self.ry):
            r.advance()
        if self.tf:
            self.y = np.array(y_in).astype(int)
        for r in (self.rx, self.ry):
            r.advance()
        rw = self.rw.random(1)[0]  # run_lrn
        hx, hy = self._history(self.x, s, self.par[0], self.rx), self._history(self.y, b, self.par[1], self.ry)
        self.x = hx
        if not self.tf:
            self.y = hy
        dep = dict(x0=s[None, :].astype(np.int32), y0=b[:, None].astype(np.int32), u=np.int32(1))
        val = dict(x1=hx[0][None], x2=hx[1][None], y1=hy[0][:, None], y2=hy[1][:, None], y3=hy[2][:, None], w=self.w)
        res = self.w.astype(np.int64) << 7  # 16-bit accumulator, 9-bit weight
        for d, mant, ex, fac in self.rule:
            cur, width = np.ones(self.w.shape, np.int64) * dep[d], 4
            for f in fac:
                width += WIDTH[f]
                cur = cur * np.clip(val[f], -(1 << WIDTH[f]), (1 << WIDTH[f]) - 1)
            cur = ((cur * mant) >> max(0, width - 15)) << (ex + 7)  # THE hidden scale: >> (sum of widths + 4 - 15)
            res = np.clip(res + np.clip(cur, -ACC - 1, ACC - 1), -ACC - 1, ACC - 1)
        self.w = np.clip(self._sround(res / 128, rw), -256, 255).astype(np.int32)
