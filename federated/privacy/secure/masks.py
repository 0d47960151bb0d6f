"""Updates as integers whose sum cannot overflow, and masks that cancel in it."""

import hashlib

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from edgessl.errors import FederationError

Words = npt.NDArray[np.uint32]
Double = npt.NDArray[np.float64]
_HALF = (1 << 31) - 1


def levels(cohort: int) -> int:
    """The integer that stands for the bound: `cohort` updates at the bound still fit 31 bits and a sign."""
    return _HALF // cohort


def to_words(change: Double, bound: float, cohort: int) -> Words:
    """change float64 (P,) as uint32 (P,), modulo 2^32, in steps of bound / levels(cohort).

    FederationError when a number lies beyond `bound`: cutting it off would falsify the mean in silence.
    """
    if not (np.abs(change) <= bound).all():
        worst = float(np.abs(change).max())
        raise FederationError(f"theta moved by up to {worst:.3g} in one number, and the server's bound is {bound:g}")
    return np.rint(change * (levels(cohort) / bound)).astype(np.int64).astype(np.uint32)


def from_words(total: Words, bound: float, cohort: int) -> Double:
    """The sum of the changes float64 (P,), from the sum of up to `cohort` of `to_words` modulo 2^32."""
    return total.view(np.int32).astype(np.float64) * (bound / levels(cohort))


def mask(secret: bytes, size: int) -> Words:
    """uint32 (size,) from a secret: ChaCha20's key stream under its SHA-256, to everybody else as good as noise."""
    cipher = Cipher(ChaCha20(hashlib.sha256(b"edgessl mask" + secret).digest(), bytes(16)), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(4 * size)), "<u4").astype(np.uint32)


def add_pair(total: Words, secret: bytes, own: int, other: int, *, remove: bool = False) -> None:
    """Add, in place, what device `own` adds for its neighbour `other`: the mask of their secret, or minus that.

    The device with the greater number adds it, the other subtracts it; `remove` undoes either.
    """
    words = mask(secret, len(total))
    if (own > other) != remove:
        total += words
    else:
        total -= words
