"""The compiled simulator's tables: an integer network, its state and its record as flat arrays."""

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


compiled = numba.njit(cache=True, nogil=True)


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
