"""What an encoder with constant weights is made of: the learned weights as levels of int8, or as floats."""

from typing import Protocol, final

import numpy as np
import onnxruntime as ort

from edgessl.device.bundle.archive import Bundle
from edgessl.device.bundle.onnxwire import with_constant
from edgessl.device.requantize.arithmetic import Float
from edgessl.device.requantize.levels import requantized
from edgessl.device.requantize.plan import PLAN_FILE, RANGES, Plan
from edgessl.device.runtime import SessionProfile
from edgessl.errors import BundleError, ParityError

INT8, FLOAT = "int8", "float"
INT8_GRAPH, TAIL = "encoder_int8", "tail_int8"  # what follows in int8: the encoder, behind a cut the tail


class FloatGraph:
    """A graph `(slot, x) -> ...` in float, run a training batch at a time so that memory stays bounded."""

    def __init__(self, bundle: Bundle, key: str, profile: SessionProfile) -> None:
        file = bundle.manifest.graphs[key].file
        self._session: ort.InferenceSession = profile.session(bundle.read(file), file)
        self._slot, self._rows = bundle.manifest.embed_slot, bundle.manifest.batch_size

    def embed(self, theta: Float, x: Float) -> Float:
        """Embeddings (N, D) of `x` (N, *learned) with flat weights `theta` (P,)."""
        return np.concatenate(self.run(theta, x, ("embedding",))[0])

    def run(self, theta: Float, x: Float, outputs: tuple[str, ...]) -> list[list[Float]]:
        """For each of `outputs` what it is for each batch."""
        n = self._rows
        feeds = [{self._slot: theta, "x": np.ascontiguousarray(x[i : i + n])} for i in range(0, len(x), n)]
        return [list(values) for values in zip(*(self._session.run(outputs, feed) for feed in feeds), strict=True)]


class Form(Protocol):
    """How weights become a graph's constants, and the float encoder that the result is held against."""

    least_cosine: float  # mean cosine similarity to the float embeddings, below which the result is refused
    constant: bool  # all weights are plain constants, see SessionProfile.session
    factory: bytes  # the graph with the factory's weights
    reference: FloatGraph  # weights are its input

    def made(self, model: bytes, theta: Float, x: Float) -> bytes:
        """The graph with `theta`, from the graph `model` before; `x` (N, *learned) is typical of the input.

        Raises BundleError and ParityError when these weights cannot be had in this form.
        """
        ...


@final
class Levels:
    """int8: scales and levels of weights and activations; needs a bundle that was exported to be requantized."""

    least_cosine, constant = 0.95, False  # the cosine is the parity gate's

    def __init__(self, bundle: Bundle, profile: SessionProfile) -> None:
        manifest = bundle.manifest
        key = TAIL if manifest.latent else INT8_GRAPH
        for name in (key, RANGES):
            if name not in manifest.graphs:
                raise BundleError(f"graph {name!r} is not in this bundle; export it with calibration and --requantize")
        self.factory = bundle.read(manifest.graphs[key].file)
        self._plan = Plan.from_bytes(bundle.read(PLAN_FILE))
        self.reference = FloatGraph(bundle, RANGES, profile)

    def made(self, model: bytes, theta: Float, x: Float) -> bytes:
        """See Form; `x` gives the ranges of the activations."""
        lows, highs = self.reference.run(theta, x, ("low", "high"))
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ParityError("with these weights activations are not finite")
        return requantized(model, self._plan, theta, low, high)


@final
class Constants:
    """float: the weights put into `encoder.onnx`, whose own input they are elsewhere; any bundle will do.

    onnxruntime then computes in blocks of channels and folds batch norms, which it does for constant weights alone.
    """

    least_cosine, constant = 0.9999, True

    def __init__(self, bundle: Bundle, profile: SessionProfile) -> None:
        self._slot = bundle.manifest.embed_slot
        self._encoder = bundle.read(bundle.manifest.graphs["encoder"].file)
        self.factory = with_constant(self._encoder, self._slot, bundle.state()[self._slot])
        self.reference = FloatGraph(bundle, "encoder", profile)

    def made(self, model: bytes, theta: Float, x: Float) -> bytes:
        """See Form."""
        return with_constant(self._encoder, self._slot, theta)


FORMS: dict[str, type[Levels] | type[Constants]] = {INT8: Levels, FLOAT: Constants}
