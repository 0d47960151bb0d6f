"""The encoder with constant weights that follows the learner: made anew with numpy, checked, or undone."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnxruntime as ort

from edgessl.device.bundle.archive import Bundle
from edgessl.device.requantize.arithmetic import Float
from edgessl.device.requantize.forms import FORMS, INT8, Form
from edgessl.device.requantize.plan import RANGES
from edgessl.device.runtime import SessionProfile
from edgessl.device.samples import in_batches
from edgessl.errors import BundleError, ConfigError, InputError, ParityError

LEAST_SAMPLES = 16  # to make the encoder with and to check it on, together
NEIGHBORS = 10
LEAST_RUNS = 5  # of each form, to say which is faster


@dataclass(frozen=True)
class Followed:
    """What following gave on samples that did not set the ranges.

    `accepted`: the new encoder is in use; otherwise the one before still is, and `reason` says why. `cosine_mean`,
    `cosine_min` to the float embeddings, `neighbor_overlap`: share of each sample's nearest neighbours kept.
    """

    accepted: bool
    reason: str
    cosine_mean: float
    cosine_min: float
    neighbor_overlap: float


class FollowingEncoder:
    """Embeds with weights that are constants of its graph, and makes that anew from the weights the device learned.

    Constant weights are what onnxruntime is fast with, but weights that change with every step have to be an input;
    this encoder is for the time between learning. Nothing is kept on disk: after a restart, `follow` the resumed
    weights; the same weights and samples give the same encoder, bit for bit.
    """

    def __init__(self, bundle: Bundle, profile: SessionProfile | None = None, form: str = INT8) -> None:
        """Starts as the factory's encoder.

        Args:
            bundle: behind a cut the backbone stays as it is, and the tail follows.
            profile: how onnxruntime uses the machine.
            form: "int8", for which the bundle must have been exported with --requantize, or "float". Which of them is
                faster depends on the processor; see `fastest`.

        Raises:
            ConfigError: another form.
            BundleError: the bundle lacks what the form needs.
        """
        if form not in FORMS:
            raise ConfigError(f"form {form!r}: expected one of {', '.join(FORMS)}")
        self.form = form
        self.milliseconds: Mapping[str, float] = MappingProxyType({})  # of each form; what `fastest` measured
        self._profile = profile or SessionProfile()
        self._maker: Form = FORMS[form](bundle, self._profile)
        self._manifest, self._rows = bundle.manifest, bundle.manifest.batch_size
        self._backbone = bundle.backbone(self._profile)
        self._model = self._maker.factory
        self._session = self._open(self._model)

    @classmethod
    def fastest(cls, bundle: Bundle, profile: SessionProfile | None = None, seconds: float = 0.2) -> "FollowingEncoder":
        """The form in which one sample is embedded fastest on this device, among those that the bundle allows.

        Each is measured in turn, `seconds` in all; `form` and `milliseconds` of the result say what was found.
        """
        encoders = {
            form: cls(bundle, profile, form) for form in FORMS if form != INT8 or RANGES in bundle.manifest.graphs
        }
        x = np.zeros((1, *bundle.manifest.input.shape), np.float32)
        times: dict[str, list[float]] = {form: [] for form in encoders}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or min(len(values) for values in times.values()) < LEAST_RUNS:
            for form, encoder in encoders.items():
                start = time.perf_counter()
                encoder.embed(x)
                times[form].append(1e3 * (time.perf_counter() - start))
        found = {form: statistics.median(values) for form, values in times.items()}
        best = encoders[min(found, key=lambda form: found[form])]
        best.milliseconds = MappingProxyType(found)
        return best

    @property
    def model(self) -> bytes:
        """The ONNX graph in use; behind a cut, the tail's."""
        return self._model

    def embed(self, x: Float) -> Float:
        """Embeddings (N, D) float32 of samples `x` (N, *shape)."""
        return self._embed(self._session, x if self._backbone is None else self._backbone.latents(x))

    def follow(self, theta: Float, samples: Float) -> Followed:
        """Make the encoder anew from flat weights `theta` (P,) and remembered `samples` (N, *learned): latents behind a
        cut.

        Every other sample sets the ranges of int8, the rest are what the result is checked on. When it does not agree
        with the float encoder whose weights are an input, or gives NaN, the encoder before stays in use. Costs N
        float embeddings, N / 2 of the new encoder, and a session.

        Raises:
            InputError: fewer than 16 samples, samples or weights of another size, or NaN in either.
        """
        size, shape = self._manifest.theta_size, self._manifest.learned.shape
        if len(samples) < LEAST_SAMPLES:
            raise InputError(f"samples: {len(samples)} to requantize with; give at least {LEAST_SAMPLES}")
        if samples.shape[1:] != shape or samples.dtype != np.float32:
            raise InputError(f"samples: expected float32 (N, *{shape}), found {samples.dtype} {samples.shape}")
        if theta.shape != (size,) or theta.dtype != np.float32:
            raise InputError(f"theta: expected float32[{size}], found {theta.dtype}{list(theta.shape)}")
        if not (np.isfinite(theta).all() and np.isfinite(samples).all()):
            raise InputError("theta or samples hold NaN or infinity; nothing was requantized")
        held_out = samples[1::2]
        try:
            model = self._maker.made(self._model, theta, samples[0::2])
            session = self._open(model)
            figures = agreement(self._embed(session, held_out), self._maker.reference.embed(theta, held_out))
        except (BundleError, ParityError) as error:
            return Followed(False, str(error), np.nan, np.nan, np.nan)
        if figures[0] < (least := self._maker.least_cosine):
            return Followed(False, f"cosine to the float encoder {figures[0]:.3f}, below {least}", *figures)
        self._model, self._session = model, session
        return Followed(True, "", *figures)

    def _open(self, model: bytes) -> ort.InferenceSession:
        return self._profile.session(model, f"{self.form} encoder", constant=self._maker.constant)

    def _embed(self, session: ort.InferenceSession, x: Float) -> Float:
        return in_batches(lambda part: session.run(["embedding"], {"x": part})[0], x, self._rows)


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
