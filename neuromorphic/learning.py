"""Lava's fixed-point learning engine in numpy: traces, stochastic rounding, epochs, products and their hidden shift.

Sources mirrored (lava-nc 0.10.0): lava/magma/core/model/py/connection.py (LearningConnectionModelBitApproximate),
lava/magma/core/learning/{learning_rule_applier,random,utils}.py. "Bit-approximate" of Loihi is Lava's own word: one
random number per step is shared by all synapses or traces, and traces decay through a float64 exponential.
"""

from __future__ import annotations

import json

import numpy as np

from neuromorphic.network import Connection
from neuromorphic.rules import FACTOR_BITS, Product

ACCUMULATOR = 1 << 15
SYNAPSE_SEED = 2  # Lava's ConnVarRandom never takes another
TRACE_TOP = 127
WEIGHT_RANGES = {"mixed": (-256, 255), "excitatory": (0, 255), "inhibitory": (-255, 0)}


class RandomStreams:
    """The five random streams of one plastic connection, in Lava's order.

    A trace stream advances twice per step, on both sides; the rounding of a post spike that is not the first of its
    epoch happens between the two advances. The synapse stream advances once per epoch. All of them drew once at
    construction.
    """

    def __init__(self, seed: int) -> None:
        self._decays = [np.random.default_rng(seed), np.random.default_rng(seed + 2)]
        self._impulses = [np.random.default_rng(seed + 1), np.random.default_rng(seed + 3)]
        self._synapse = np.random.default_rng(SYNAPSE_SEED)
        self.traces(1)
        self.synapses(1)

    def traces(self, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """(2, draws) float64 in [0, 1) for decays, (2, draws) int64 in 0..127 for impulses; row 0 pre, row 1 post."""
        decay = np.stack([stream.random(draws) for stream in self._decays])
        return decay, np.stack([stream.integers(0, 128, draws, dtype=np.int64) for stream in self._impulses])

    def synapses(self, draws: int) -> np.ndarray:
        """(draws,) float64 in [0, 1)."""
        return self._synapse.random(draws)

    def _all(self) -> list[np.random.Generator]:
        return [*self._decays, *self._impulses, self._synapse]

    def state(self) -> np.ndarray:
        """Where the streams are, as JSON bytes (uint8)."""
        return np.frombuffer(json.dumps([stream.bit_generator.state for stream in self._all()]).encode(), np.uint8)

    def restore(self, state: np.ndarray) -> None:
        """Go back to what `state` returned."""
        for stream, saved in zip(self._all(), json.loads(bytes(state)), strict=True):
            stream.bit_generator.state = saved


def split_impulses(impulses: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Integer part and fraction in 1/256, as the engine stores them."""
    whole = np.floor(impulses)
    return whole.astype(np.int64), np.round((np.asarray(impulses) - whole) * 256).astype(np.int64)


def trace_keeps(taus: tuple[float, ...]) -> np.ndarray:
    """What a trace keeps per step, e^(-1/tau); a trace with tau = 0 forgets at once."""
    tau = np.asarray(taus, np.float64)
    return np.where(tau != 0, np.exp(-1 / np.where(tau != 0, tau, 1)), 0.0)


class Plasticity:
    """The state of one plastic connection over `batch` independent lanes.

    `weights` and `tags` are (batch, n_pre, n_post) int32: a pre neuron's synapses lie together. `step` follows Lava's
    order: spikes were already accumulated with the weights as they were.
    """

    def __init__(self, connection: Connection, batch: int) -> None:
        assert connection.rule is not None
        self.rule, self.sign = connection.rule, connection.sign
        n_post, n_pre = connection.weights.shape
        self._initial = np.ascontiguousarray(connection.weights.T, np.int32)
        self.batch, self.shape = batch, (n_pre, n_post)
        self.impulse, self.fraction = split_impulses(self.rule.impulses)
        self.tau = np.asarray(self.rule.taus)
        self.keep = trace_keeps(self.rule.taus)
        self.reset()

    def reset(self, keep_weights: bool = False) -> None:
        """Back to step 0: traces, spike times and random streams, and the weights and tags unless they are kept."""
        batch, (n_pre, n_post) = self.batch, self.shape
        if not keep_weights:
            self.weights = np.repeat(self._initial[None], batch, 0)
            self.tags = np.zeros((batch, n_pre, n_post) if self.uses_tags else (batch, 0, 0), np.int32)
        self.x, self.y = np.zeros((2, batch, n_pre), np.int64), np.zeros((3, batch, n_post), np.int64)
        self.tx, self.ty = np.zeros((batch, n_pre), np.int64), np.zeros((batch, n_post), np.int64)
        self.streams = RandomStreams(self.rule.seed)
        self.evaluated, self.changed = np.zeros(batch, np.int64), np.zeros(batch, np.int64)

    @property
    def uses_tags(self) -> bool:
        """Whether the rule learns a tag."""
        return bool(self.rule.dt)

    def state(self) -> dict[str, np.ndarray]:
        """Everything `restore` needs."""
        arrays = {name: getattr(self, name).copy() for name in ("weights", "tags", "x", "y", "tx", "ty")}
        return {**arrays, "streams": self.streams.state()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go back to what `state` returned."""
        for name in ("weights", "tags", "x", "y", "tx", "ty"):
            getattr(self, name)[...] = state[name]
        self.streams.restore(state["streams"])

    def step(self, time: int, pre: np.ndarray, gate: np.ndarray, outside: np.ndarray | None) -> None:
        """One time step.

        Args:
            time: counted from 1.
            pre: (batch, n_pre) spikes, binary already where the connection ignores payloads.
            gate: (batch, n_post) y0: the post spikes, or the gate of a three-factor rule.
            outside: (3, batch, n_post) y1, y2, y3 of a three-factor rule.
        """
        epoch = self.rule.t_epoch
        moment = time % epoch or epoch
        self._pre_spikes(pre, moment)
        decay, impulse = self.streams.traces(2)
        fired = gate != 0
        again = fired & (self.ty > 0)
        if outside is None:
            if again.any():
                for k in range(3):
                    self.y[k][again] = self._add(self.y[k][again], 2 + k, impulse[1, 0])
        else:
            self.y[...] = outside
        self.ty[fired] = moment
        if time % epoch == 0:
            self._learn(time, decay[:, 1], impulse[:, 1])

    def _add(self, trace: np.ndarray, which: int, random: int) -> np.ndarray:
        return np.clip(trace + self.impulse[which] + (random < self.fraction[which]), 0, TRACE_TOP)

    def _pre_spikes(self, pre: np.ndarray, moment: int) -> None:
        fired = pre != 0
        again = fired & (self.tx > 0)
        timed = fired
        graded = self.rule.graded
        if graded == "impulse":
            self.x[0][again] = self._add(self.x[0][again], 0, 0)
        else:
            half = np.round(pre / 2).astype(np.int64) & 255
            if graded == "overwrite":
                self.x[0][fired] = half[fired]
            else:
                total = (self.x[0] + half) & 255
                if graded == "add":
                    self.x[0] = np.minimum(total, TRACE_TOP)
                else:
                    over = total > TRACE_TOP
                    timed, again = fired & over, again & over
                    self.x[0] = np.where(over, total - TRACE_TOP, total)
        self.x[1][again] = self._add(self.x[1][again], 1, 0)
        self.tx[timed] = moment

    def _history(self, trace: np.ndarray, times: np.ndarray, first: int, decay: float, impulse: int) -> np.ndarray:
        """(t_epoch + 1, traces, batch, n): the traces at each moment of the epoch."""
        history = np.zeros((self.rule.t_epoch + 1, *trace.shape), np.int64)
        history[0] = trace
        for moment in range(1, self.rule.t_epoch + 1):
            fired = times == moment
            for k in range(len(trace)):
                if self.tau[first + k] != 0:
                    exact = self.keep[first + k] * history[moment - 1, k]
                    history[moment, k] = np.floor(exact) + (decay < exact % 1)
                history[moment, k][fired] = self._add(history[moment, k][fired], first + k, impulse)
        return history

    def _learn(self, time: int, decay: np.ndarray, impulse: np.ndarray) -> None:
        pre = self._history(self.x, self.tx, 0, decay[0], impulse[0])
        post = self._history(self.y, self.ty, 2, decay[1], impulse[1])
        self.x = pre[-1].copy()
        if not self.rule.three_factor:
            self.y = post[-1].copy()
        random = self.streams.synapses(1)[0]
        u = int(time // self.rule.t_epoch % 2**self.rule.decimate == 0)
        for lane in range(self.batch):
            # synapses of silent inputs have no fraction, so that rounding cannot move them: skipping them is exact
            rows = np.flatnonzero(self.tx[lane]) if self.rule.event_driven else np.arange(self.shape[0])
            if len(rows):
                self._learn_lane(lane, rows, pre[:, :, lane], post[:, :, lane], u, random)
        self.tx[...] = 0
        self.ty[...] = 0

    def _learn_lane(
        self, lane: int, rows: np.ndarray, pre: np.ndarray, post: np.ndarray, u: int, random: float
    ) -> None:
        old = self.weights[lane, rows]
        tags = self.tags[lane, rows] if self.uses_tags else old
        seen = _Seen(pre[:, :, rows], post, self.tx[lane, rows], self.ty[lane], u, old, tags)
        if self.rule.dw:
            total = _accumulate(old, self.rule.weight_products, seen)
            if self.sign == "excitatory":
                total = np.maximum(total, 0)
            elif self.sign == "inhibitory":
                total = np.minimum(total, 0)
            low, high = WEIGHT_RANGES[self.sign]
            new = np.clip(_round(total, random), low, high)
            self.weights[lane, rows] = new
            self.changed[lane] += np.count_nonzero(new != old)
        if self.uses_tags:
            new = _round(_accumulate(tags, self.rule.tag_products, seen), random)
            self.tags[lane, rows] = np.clip(new, -257, 255)  # Lava's lower end, one below 9 bits
        self.evaluated[lane] += old.size


class _Seen:
    """What products see of one lane's epoch; arrays broadcast to (rows, n_post)."""

    def __init__(
        self,
        pre: np.ndarray,
        post: np.ndarray,
        tx: np.ndarray,
        ty: np.ndarray,
        u: int,
        weights: np.ndarray,
        tags: np.ndarray,
    ) -> None:
        self._pre, self._post, self._tx, self._ty = pre, post, tx, ty
        self.x0, self.y0, self.u = (tx > 0).astype(np.int32)[:, None], (ty > 0).astype(np.int32)[None], np.int32(u)
        self._weights, self._tags = weights, tags

    def state(self, name: str, dependency: str) -> np.ndarray:
        """A factor's value; traces are read at the pre spike (x0), the post spike (y0) or the epoch's end (u)."""
        if name in ("x0", "y0"):
            return self.x0 if name == "x0" else self.y0
        if name in ("w", "t"):
            return self._weights if name == "w" else self._tags
        history, index = (self._pre, int(name[1]) - 1) if name[0] == "x" else (self._post, int(name[1]) - 1)
        trace = history[:, index]
        here = np.arange(trace.shape[1])
        if dependency == "u":
            value = trace[-1]
        elif dependency == name[0] + "0":  # read at the side's own spike
            value = trace[self._tx if name[0] == "x" else self._ty, here]
        elif name[0] == "x":  # a pre trace at each post spike
            return trace[self._ty].T
        else:  # a post trace at each pre spike
            return trace[self._tx]
        return value[:, None] if name[0] == "x" else value[None]


def _accumulate(variable: np.ndarray, products: tuple[Product, ...], seen: _Seen) -> np.ndarray:
    """variable << 7 plus the products, saturating at 15 bits after each."""
    total = variable.astype(np.int64) << 7
    for product in products:
        current = np.ones(variable.shape, np.int32) * getattr(seen, product.dependency)
        for factor in product.factors:
            value = seen.state(factor.state, product.dependency) + factor.constant
            if factor.sign:
                value = np.sign(value)
            bits = FACTOR_BITS[factor.state]
            current = current * np.clip(value, -(1 << bits), (1 << bits) - 1).astype(np.int32)
        current = (current * np.int32(product.mantissa)) >> np.int32(product.hidden_shift)
        current = current << np.int32(product.exponent + 7)
        total = np.clip(total + np.clip(current, -ACCUMULATOR - 1, ACCUMULATOR - 1), -ACCUMULATOR - 1, ACCUMULATOR - 1)
    return total


def _round(total: np.ndarray, random: float) -> np.ndarray:
    """Stochastic rounding of total / 128 with one random number for all."""
    exact = total / 128
    return (np.floor(exact) + (random < exact % 1)).astype(np.int32)
