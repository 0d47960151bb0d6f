"""The hand-written bundle behind a cut: a backbone averages two channels, the linear step learns.

Its latents have the shape of the linear bundle's samples, so that the same graphs train on them.
"""

from dataclasses import replace

import linear_bundle
import numpy as np
import onnx
import onnx.parser

from edgessl.device import GraphSpec, InputSpec, Manifest, TensorSpec
from edgessl.device.bundle.specs import LatentSpec

SHAPE, LATENT = (2, 4, 4), linear_bundle.SHAPE
SCALE, ZERO_POINT = float(np.float32(0.02)), 100

BACKBONE = """<ir_version: 10, opset_import: ["" : 20]>
backbone (float[N,2,4,4] x) => (float[N,1,4,4] latent) {
    channels = Constant <value_ints = [1]> ()
    mean = ReduceMean <keepdims = 1> (x, channels)
    level = QuantizeLinear (mean, scale, zero_point)
    latent = DequantizeLinear (level, scale, zero_point)
}"""


def build_backbone() -> bytes:
    model = onnx.parser.parse_model(BACKBONE)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(SCALE, np.float32), "scale"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(ZERO_POINT, np.uint8), "zero_point"))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def reference_latents(x: np.ndarray) -> np.ndarray:
    """What the backbone should give, in float64: the mean of the channels on the grid, ends included."""
    level = np.rint(x.astype(np.float64).mean(1, keepdims=True) / SCALE) + ZERO_POINT
    return (SCALE * (level.clip(0, 255) - ZERO_POINT)).astype(np.float32)


def build_manifest() -> Manifest:
    manifest = linear_bundle.build_manifest()
    samples, latent = TensorSpec("x", ("N", *SHAPE)), TensorSpec("latent", ("N", *LATENT))
    graphs = {name: graph for name, graph in manifest.graphs.items() if name != "encoder_int8"}
    spec = InputSpec("latent", LATENT, (0.25,), (0.5,), "activation")
    return replace(
        manifest,
        name="linear-denoising-behind-a-cut",
        input=InputSpec("image", SHAPE, (0.0, 0.0), (1.0, 1.0), "intensity 0..1"),
        graphs={**graphs, "backbone": GraphSpec("backbone.int8.onnx", (samples,), (latent,))},
        latent=LatentSpec("mean", spec, SCALE, ZERO_POINT),
    )


def build_members() -> dict[str, bytes]:
    members = linear_bundle.build_members()
    del members["encoder.int8.onnx"]
    return {**members, "backbone.int8.onnx": build_backbone()}


def make_samples(n: int, seed: int = 0) -> np.ndarray:
    """Images (n, 2, 4, 4) float32 whose channels differ by noise that the backbone averages away."""
    latents = linear_bundle.make_samples(n, seed)
    noise = 0.05 * np.random.default_rng([seed, 1]).normal(size=latents.shape).astype(np.float32)
    return np.concatenate([latents + noise, latents - noise], axis=1)
