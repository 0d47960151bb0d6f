"""The int8 encoder that follows the learner: requantized with numpy, checked against the float one, or undone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from edgessl.device.bundle.archive import Bundle
from edgessl.device.bundle.onnxwire import initializers
from edgessl.device.requantize.arithmetic import (
    Array,
    Float,
    affine,
    folded,
    quantize_bias,
    quantize_weight,
    scales_for_bias,
    weight_limit,
    weight_scales,
)
from edgessl.device.requantize.plan import PLAN_FILE, RANGES, Plan
from edgessl.device.runtime import SessionProfile
from edgessl.errors import BundleError, InputError, ParityError

LEAST_SAMPLES = 16  # for ranges and check together
MIN_COSINE = 0.95  # mean cosine similarity to the float embeddings, as at export
NEIGHBORS = 10


@dataclass(frozen=True)
class Followed:
    """What requantizing gave on samples that did not set the ranges.

    `accepted`: the new encoder is in use; otherwise the one before still is, and `reason` says why. `cosine_mean`,
    `cosine_min` to the float embeddings, `neighbor_overlap`: share of each sample's nearest neighbours kept.
    """

    accepted: bool
    reason: str
    cosine_mean: float
    cosine_min: float
    neighbor_overlap: float


class FollowingEncoder:
    """Embeds with `encoder.int8.onnx`, and makes it anew from the weights that the device learned.

    Needs a bundle that was exported to be requantized. Nothing is kept on disk: after a restart, `follow` the resumed
    weights; the same weights and samples give the same encoder, bit for bit.
    """

    def __init__(self, bundle: Bundle, profile: SessionProfile | None = None) -> None:
        """Starts as the factory's int8 encoder; BundleError when the bundle lacks the plan or the ranges graph."""
        graphs = bundle.manifest.graphs
        for key in ("encoder_int8", RANGES):
            if key not in graphs:
                raise BundleError(f"graph {key!r} is not in this bundle; export it with calibration and --requantize")
        self._profile = profile or SessionProfile()
        self._plan = Plan.from_bytes(bundle.read(PLAN_FILE))
        self._slot, self._rows = bundle.manifest.embed_slot, bundle.manifest.batch_size
        self._model = bundle.read(graphs["encoder_int8"].file)
        self._session = self._open(self._model)
        self._measure = self._profile.session(bundle.read(graphs[RANGES].file), graphs[RANGES].file)

    @property
    def model(self) -> bytes:
        """The ONNX graph in use."""
        return self._model

    def embed(self, x: Float) -> Float:
        """Embeddings (N, D) float32 of samples `x` (N, *shape)."""
        return self._embed(self._session, x)

    def follow(self, theta: Float, samples: Float) -> Followed:
        """Make the encoder anew from flat weights `theta` (P,) and the ranges of remembered `samples` (N, *shape).

        Every other sample sets the ranges, the rest are what the result is checked on. When it does not agree with the
        float encoder, or gives NaN, the encoder before stays in use. Costs N float embeddings, N / 2 in
        int8 and a session.

        Raises:
            InputError: fewer than 16 samples, weights of another size, or NaN in either.
        """
        if len(samples) < LEAST_SAMPLES:
            raise InputError(f"samples: {len(samples)} to requantize with; give at least {LEAST_SAMPLES}")
        if theta.shape != (self._plan.theta_size,) or theta.dtype != np.float32:
            raise InputError(
                f"theta: expected float32[{self._plan.theta_size}], found {theta.dtype}{list(theta.shape)}"
            )
        if not (np.isfinite(theta).all() and np.isfinite(samples).all()):
            raise InputError("theta or samples hold NaN or infinity; nothing was requantized")
        _, low, high = self._float(theta, samples[0::2])
        expected, _, _ = self._float(theta, samples[1::2])
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return Followed(False, "with these weights activations are not finite", np.nan, np.nan, np.nan)
        try:
            model = requantized(self._model, self._plan, theta, low, high)
            session = self._open(model)
            found = self._embed(session, samples[1::2])
            figures = agreement(found, expected)
        except (BundleError, ParityError) as error:
            return Followed(False, str(error), np.nan, np.nan, np.nan)
        if figures[0] < MIN_COSINE:
            return Followed(False, f"cosine to the float encoder {figures[0]:.3f}, below {MIN_COSINE}", *figures)
        self._model, self._session = model, session
        return Followed(True, "", *figures)

    def _open(self, model: bytes) -> ort.InferenceSession:
        return self._profile.session(model, "encoder.int8.onnx")

    def _embed(self, session: ort.InferenceSession, x: Float) -> Float:
        n = self._rows
        parts = [session.run(["embedding"], {"x": np.ascontiguousarray(x[i : i + n])})[0] for i in range(0, len(x), n)]
        z: Float = np.concatenate(parts)
        return z

    def _float(self, theta: Float, samples: Float) -> tuple[Float, Float, Float]:
        """Float embeddings (N, D) by `theta`, and the smallest and largest value (T,) of each activation."""
        z, low, high = [], [], []
        for i in range(0, len(samples), self._rows):
            feeds = {self._slot: theta, "x": np.ascontiguousarray(samples[i : i + self._rows])}
            embedding, least, most = self._measure.run(["embedding", "low", "high"], feeds)
            z.append(embedding)
            low.append(least)
            high.append(most)
        return np.concatenate(z), np.min(low, axis=0), np.max(high, axis=0)


def requantized(model: bytes, plan: Plan, theta: Float, low: Float, high: Float) -> bytes:
    """The int8 graph `model` with the constants that `theta` (P,) and the ranges `low`, `high` (T,) give.

    Raises:
        BundleError: the plan names a constant that is not in the graph, or of another size.
    """
    copy = bytearray(model)
    places = initializers(copy)
    try:
        made = constants(plan, theta, low, high)
    except ValueError as error:  # shapes that do not fit together
        raise BundleError(f"{PLAN_FILE}: {error}") from None
    for name, value in made.items():
        data = value.astype(value.dtype.newbyteorder("<")).tobytes()
        if name not in places or len(places[name]) != len(data):
            found = f"{len(places[name])} bytes" if name in places else "nothing"
            raise BundleError(f"{PLAN_FILE}: constant {name!r}: expected {len(data)} bytes in the graph, found {found}")
        places[name][:] = data
    del places  # views that keep the buffer
    return bytes(copy)


def constants(plan: Plan, theta: Float, low: Float, high: Float) -> Mapping[str, Array]:
    """Every constant that depends on `theta` (P,) or on the ranges `low`, `high` (T,), by name."""
    made: dict[str, Array] = {name: np.ascontiguousarray(piece.of(theta)) for name, piece in plan.floats}
    inputs = []
    for name, least, most in zip(plan.activations, low, high, strict=True):
        scale, zero = affine(float(least), float(most))
        made |= {f"{name}.scale": np.asarray(scale), f"{name}.zero": np.asarray(zero)}
        inputs.append(scale)
    for layer in plan.layers:
        weight, activation = layer.weight.of(theta), inputs[layer.input]
        bias = None if layer.bias is None else layer.bias.of(theta)
        if layer.norm is not None:
            norm = layer.norm
            gain, shift, mean, variance = (p.of(theta) for p in (norm.gain, norm.bias, norm.mean, norm.variance))
            weight, bias = folded(weight, gain, shift, mean, variance, norm.eps)
        limit = weight_limit(layer.bits)
        scales = weight_scales(weight, layer.axis, limit)
        if bias is not None and layer.bias_levels is not None:
            scales = scales_for_bias(scales, bias, activation)
            both = (scales * activation).astype(np.float32)
            made |= {layer.bias_levels: quantize_bias(bias, both), f"{layer.bias_levels}.scale": both}
        made[layer.levels] = quantize_weight(weight, scales, layer.axis, limit)
        made[f"{layer.levels}.scale"] = scales
    return made


def agreement(found: Float, expected: Float) -> tuple[float, float, float]:
    """Mean and least cosine similarity of rows `found`, `expected` (N, D), and the mean overlap of their neighbours.

    Raises:
        ParityError: not finite.
    """
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        raise ParityError("embeddings hold NaN or infinity")
    a, b = (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12) for z in (expected, found))
    cosine = (a * b).sum(1)
    k = min(NEIGHBORS, len(a) - 1)
    near_a, near_b = (np.argsort(-(z @ z.T) + 2 * np.eye(len(z)), axis=1)[:, :k] for z in (a, b))
    overlap = float(np.mean([len(np.intersect1d(p, q)) / k for p, q in zip(near_a, near_b, strict=True)]))
    return float(cosine.mean()), float(cosine.min()), overlap
