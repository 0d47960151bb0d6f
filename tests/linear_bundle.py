"""A real, small bundle written by hand in ONNX: a linear denoising autoencoder with tied weights.

Vincent et al., "Extracting and composing robust features with denoising autoencoders", 2008, without the
nonlinearity. No mock: onnxruntime runs it, and `reference_step` is the same step in numpy float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser

from edgessl.device import Component, GraphSpec, InputSpec, Manifest, ParameterEntry, TensorSpec
from edgessl.device.storage.tensors import dumps

SHAPE, FEATURES, DIM, BATCH = (1, 4, 4), 16, 6, 8
SIZE = FEATURES * DIM + 2
MEAN, STD = 0.25, 0.5
HYPER = {"lr": 0.05, "momentum": 0.9, "noise": 0.3, "anchor": 0.0}

_HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
_SPLIT = f"""
    sizes = Constant <value_ints = [{FEATURES * DIM}, 1, 1]> ()
    flat_w, mean, std = Split <axis = 0> (theta, sizes)
    w_shape = Constant <value_ints = [{FEATURES}, {DIM}]> ()
    w = Reshape (flat_w, w_shape)
    rows = Constant <value_ints = [-1, {FEATURES}]> ()
"""
ENCODER = f"""{_HEADER}
encoder (float[{SIZE}] theta, float[N,1,4,4] x) => (float[N,{DIM}] embedding) {{
    {_SPLIT}
    flat = Reshape (x, rows)
    centred = Sub (flat, mean)
    scaled = Div (centred, std)
    z = MatMul (scaled, w)
    length = ReduceL2 <keepdims = 1> (z, axes)
    embedding = Div (z, length)
}}"""
TRAIN = f"""{_HEADER}
train (float[{SIZE}] theta, float[{SIZE}] velocity, float[{SIZE}] anchor, float[{BATCH},1,4,4] batch,
       float[{BATCH},{FEATURES}] noise, float hyper_lr, float hyper_momentum,
       float hyper_noise, float hyper_anchor)
    => (float[{SIZE}] next_theta, float[{SIZE}] next_velocity, float[{SIZE}] next_anchor, float loss,
        float grad_norm, float embedding_std, float effective_rank) {{
    {_SPLIT}
    flat = Reshape (batch, rows)
    centred = Sub (flat, mean)
    clean = Div (centred, std)
    half = Constant <value_float = 0.5> ()
    two = Constant <value_float = 2.0> ()
    count = Constant <value_float = {float(BATCH * FEATURES)}> ()
    samples = Constant <value_float = {float(BATCH)}> ()
    dims = Constant <value_float = {float(DIM)}> ()
    shifted = Sub (noise, half)
    corruption = Mul (shifted, hyper_noise)
    x = Add (clean, corruption)
    z = MatMul (x, w)
    wt = Transpose <perm = [1, 0]> (w)
    back = MatMul (z, wt)
    r = Sub (back, clean)
    squares = Mul (r, r)
    total = ReduceSum <keepdims = 0> (squares)
    error = Div (total, count)
    pull = Sub (theta, anchor)
    pull2 = Mul (pull, pull)
    pulled = ReduceSum <keepdims = 0> (pull2)
    penalty = Mul (pulled, hyper_anchor)
    loss = Add (error, penalty)
    xt = Transpose <perm = [1, 0]> (x)
    rt = Transpose <perm = [1, 0]> (r)
    rw = MatMul (r, w)
    g1 = MatMul (xt, rw)
    g2 = MatMul (rt, z)
    g12 = Add (g1, g2)
    gain = Div (two, count)
    gw = Mul (g12, gain)
    flat_shape = Constant <value_ints = [-1]> ()
    gflat = Reshape (gw, flat_shape)
    zeros = Constant <value_floats = [0.0, 0.0]> ()
    gdata = Concat <axis = 0> (gflat, zeros)
    strength = Mul (hyper_anchor, two)
    gpull = Mul (pull, strength)
    g = Add (gdata, gpull)
    grad_norm = ReduceL2 <keepdims = 0> (g)
    kept = Mul (velocity, hyper_momentum)
    next_velocity = Add (kept, g)
    move = Mul (next_velocity, hyper_lr)
    next_theta = Sub (theta, move)
    next_anchor = Identity (anchor)
    first = Constant <value_ints = [0]> ()
    zmean = ReduceMean <keepdims = 1> (z, first)
    zc = Sub (z, zmean)
    zct = Transpose <perm = [1, 0]> (zc)
    scatter = MatMul (zct, zc)
    cov = Div (scatter, samples)
    zc2 = Mul (zc, zc)
    variance = ReduceMean <keepdims = 0> (zc2, first)
    deviation = Sqrt (variance)
    embedding_std = ReduceMean <keepdims = 0> (deviation)
    trace = ReduceSum <keepdims = 0> (variance)
    trace2 = Mul (trace, trace)
    cov2 = Mul (cov, cov)
    frobenius = ReduceSum <keepdims = 0> (cov2)
    effective_rank = Div (trace2, frobenius)
}}"""


def build_graph(text: str) -> bytes:
    model = onnx.parser.parse_model(text)
    for name in (*HYPER, "theta", "velocity", "anchor"):  # the parser takes no dots in names
        for prefix in ("hyper", "next"):
            _rename(model.graph, f"{prefix}_{name}", f"{prefix}.{name}")
    if "axes)" in text:
        model.graph.initializer.append(onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [-1]))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def factory_theta() -> np.ndarray:
    w = np.random.default_rng(7).normal(size=FEATURES * DIM) / 8
    return np.concatenate([w, [MEAN, STD]]).astype(np.float32)


def build_int8(theta: np.ndarray) -> bytes:
    """The encoder with its weights frozen inside as per-tensor int8."""
    w = theta[: FEATURES * DIM].reshape(FEATURES, DIM)
    scale = float(np.abs(w).max() / 127)
    text = f"""{_HEADER}
    int8 (float[N,1,4,4] x) => (float[N,{DIM}] embedding) {{
        rows = Constant <value_ints = [-1, {FEATURES}]> ()
        mean = Constant <value_float = {MEAN}> ()
        std = Constant <value_float = {STD}> ()
        flat = Reshape (x, rows)
        centred = Sub (flat, mean)
        scaled = Div (centred, std)
        w = DequantizeLinear (wq, scale)
        z = MatMul (scaled, w)
        length = ReduceL2 <keepdims = 1> (z, axes)
        embedding = Div (z, length)
    }}"""
    model = onnx.parser.parse_model(text)
    values = np.round(w / scale).astype(np.int8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "wq"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(scale), "scale"))
    model.graph.initializer.append(onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [-1]))
    return model.SerializeToString()


def build_manifest() -> Manifest:
    slots = tuple(TensorSpec(name, (SIZE,)) for name in ("theta", "velocity", "anchor"))
    x, z = TensorSpec("x", ("N", *SHAPE)), TensorSpec("embedding", ("N", DIM))
    batch, noise = TensorSpec("batch", (BATCH, *SHAPE)), TensorSpec("noise", (BATCH, FEATURES))
    hyper = tuple(TensorSpec(f"hyper.{k}", ()) for k in HYPER)
    following = tuple(TensorSpec(f"next.{s.name}", s.shape) for s in slots)
    scalars = tuple(TensorSpec(k, ()) for k in ("loss", "grad_norm", "embedding_std", "effective_rank"))
    return Manifest(
        name="linear-denoising",
        input=InputSpec("image", SHAPE, (MEAN,), (STD,), "intensity 0..1"),
        embedding_dim=DIM,
        encoder=Component("linear"),
        objective=Component("denoising"),
        optimizer=Component("sgd", {"nesterov": False}),
        views=(),
        parameters=(
            ParameterEntry("encoder.weight", 0, (FEATURES, DIM), "weight"),
            ParameterEntry("input.mean", FEATURES * DIM, (1,), "fixed"),
            ParameterEntry("input.std", FEATURES * DIM + 1, (1,), "fixed"),
        ),
        slots=slots,
        hyper=HYPER,
        graphs={
            "encoder": GraphSpec("encoder.onnx", (slots[0], x), (z,)),
            "encoder_int8": GraphSpec("encoder.int8.onnx", (x,), (z,)),
            "train": GraphSpec("train.onnx", (*slots, batch, noise, *hyper), (*following, *scalars)),
        },
        parity={"step_max_abs": 1e-6},
        provenance={"seed": 0},
    )


def build_members() -> dict[str, bytes]:
    theta = factory_theta()
    state = {"theta": theta, "velocity": np.zeros_like(theta), "anchor": theta}
    return {
        "encoder.onnx": build_graph(ENCODER),
        "encoder.int8.onnx": build_int8(theta),
        "train.onnx": build_graph(TRAIN),
        "state.safetensors": dumps(state),
    }


def reference_step(
    state: Mapping[str, np.ndarray], batch: np.ndarray, noise: np.ndarray, hyper: Mapping[str, float]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The step of TRAIN in numpy float64, its gradient from the closed form of tied linear autoencoders."""
    theta, velocity, anchor = (state[k].astype(np.float64) for k in ("theta", "velocity", "anchor"))
    w, (mean, std) = theta[:-2].reshape(FEATURES, DIM), theta[-2:]
    clean = (batch.reshape(BATCH, -1).astype(np.float64) - mean) / std
    x = clean + hyper["noise"] * (noise.astype(np.float64) - 0.5)
    z, r = x @ w, x @ w @ w.T - clean
    g = np.concatenate([(2 / r.size * (x.T @ r @ w + r.T @ x @ w)).ravel(), [0, 0]])
    g += 2 * hyper["anchor"] * (theta - anchor)
    velocity = hyper["momentum"] * velocity + g
    spectrum = np.linalg.eigvalsh(np.cov(z.T, bias=True))
    metrics = {
        "loss": (r**2).mean() + hyper["anchor"] * ((theta - anchor) ** 2).sum(),
        "grad_norm": np.linalg.norm(g),
        "embedding_std": z.std(0).mean(),
        "effective_rank": spectrum.sum() ** 2 / (spectrum**2).sum(),
    }
    return {"theta": theta - hyper["lr"] * velocity, "velocity": velocity, "anchor": anchor}, metrics


def make_samples(n: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Images (n, 1, 4, 4) that lie near a 3-dimensional subspace; `shift` rotates towards another one."""
    base = np.random.default_rng(99).normal(size=(2, 3, FEATURES))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) @ ((1 - shift) * base[0] + shift * base[1]) + 2 * shift
    return (0.3 * x + MEAN + 0.02 * rng.normal(size=x.shape)).astype(np.float32).reshape(n, *SHAPE)


@dataclass(frozen=True)
class Kit:
    """What tests need to make and judge bundles of their own."""

    manifest: Manifest
    members: dict[str, bytes]
    hyper: dict[str, float]
    samples: Callable[..., np.ndarray]
    reference_step: Callable[..., tuple[dict[str, np.ndarray], dict[str, float]]]
    encoder_text: str
    train_text: str
    graph: Callable[[str], bytes]
