"""The bundles that the device and faults benches run: exported from fresh weights, without pretraining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser

from edgessl.bench.case import input_of
from edgessl.checkpoint import Checkpoint
from edgessl.device import Component, GraphSpec, InputSpec, Manifest, ParameterEntry, TensorSpec, pack
from edgessl.device.bundle.manifest import METRICS
from edgessl.device.storage import tensors
from edgessl.recipe import Part, Recipe, build_step
from export import export_bundle
from export.parity import random_fields

CALIBRATION = 64  # samples
CUT = "pool"  # of the latent path: embeddings are remembered, an adapter behind them learns


def checkpoint(encoder: str, spec: InputSpec | None = None) -> Checkpoint:
    """Fresh weights of `encoder` with VICReg and momentum SGD, as in the step bench (ds_cnn_s: 37k parameters)."""
    recipe = Recipe(encoder=Part(name=encoder), objective=Part(name="vicreg"), optimizer="sgd")
    spec = spec or input_of(encoder)
    state = build_step(recipe, spec).initial_state()
    return Checkpoint(recipe, spec, 0, state, np.zeros((0, 1)), ("step",))


def write(folder: Path, path: str, encoder: str = "ds_cnn_s", batch_size: int = 32) -> Path:
    """The bundle of the "full" or the "latent" `path`, in `folder`."""
    made = checkpoint(encoder)
    target = folder / f"{path}.edgessl"
    calibration = random_fields(made.input, CALIBRATION, 0)
    export_bundle(made, target, calibration=calibration, batch_size=batch_size, cut=CUT if path == "latent" else None)
    return target


def write_scaling(folder: Path) -> Path:
    """A bundle of a few kilobytes for readers to read: the encoder scales four numbers, a step hardly moves them."""
    theta, x, z = TensorSpec("theta", (4,)), TensorSpec("x", ("N", 1, 4)), TensorSpec("embedding", ("N", 4))
    batch, noise, lr = TensorSpec("batch", (2, 1, 4)), TensorSpec("noise", (2, 1)), TensorSpec("hyper.lr", ())
    outputs = (TensorSpec("next.theta", (4,)), *(TensorSpec(name, ()) for name in METRICS))
    manifest = Manifest(
        name="scaling",
        input=InputSpec("signal", (1, 4), (0.0,), (1.0,), "volts"),
        embedding_dim=4,
        encoder=Component("scaling"),
        objective=Component("decay"),
        optimizer=Component("sgd"),
        views=(),
        parameters=(ParameterEntry("scale", 0, (4,), "vector"),),
        slots=(theta,),
        hyper={"lr": 1e-6},
        graphs={
            "encoder": GraphSpec("encoder.onnx", (theta, x), (z,)),
            "train": GraphSpec("train.onnx", (theta, batch, noise, lr), outputs),
        },
    )
    size = "loss = ReduceL2 <keepdims = 0> (theta)"
    same = "; ".join(f"{name} = Identity (loss)" for name in METRICS if name != "loss")
    sides = ", ".join(f"float {name}" for name in METRICS)
    graphs = {
        "encoder.onnx": "encoder (float[4] theta, float[N,1,4] x) => (float[N,4] embedding) "
        "{ rows = Constant <value_ints = [-1, 4]> (); flat = Reshape (x, rows); embedding = Mul (flat, theta) }",
        "train.onnx": "train (float[4] theta, float[2,1,4] batch, float[2,1] noise, float hyper_lr) "
        f"=> (float[4] next_theta, {sides}) "
        f"{{ step = Mul (theta, hyper_lr); next_theta = Sub (theta, step); {size}; {same} }}",
    }
    members = {name: _model(text) for name, text in graphs.items()}
    members["state.safetensors"] = tensors.dumps({"theta": np.ones(4, np.float32)})
    pack(folder / "scaling.edgessl", manifest, members)
    return folder / "scaling.edgessl"


def _model(text: str) -> bytes:
    """ONNX from onnx's text form, whose names take no dots."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text.replace("; ", chr(10))}')
    names = {"hyper_lr": "hyper.lr", "next_theta": "next.theta"}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return bytes(model.SerializeToString())


def write_tiny(folder: Path) -> Path:
    """A bundle whose step takes about a millisecond: 4 x 4 images, batches of 8."""
    made = checkpoint("ds_cnn_s", InputSpec("image", (1, 8, 8), (0.5,), (0.25,), "intensity 0..1"))
    target = folder / "tiny.edgessl"
    export_bundle(made, target, calibration=None, batch_size=8)
    return target


def write_features(folder: Path) -> Path:
    """A bundle whose step takes hardly more than a call: 64 numbers a sample, a small perceptron, batches of 16."""
    spec = InputSpec("features", (64,), (0.5,) * 64, (0.25,) * 64, "intensity 0..1")
    target = folder / "features.edgessl"
    export_bundle(checkpoint("mlp", spec), target, calibration=None, batch_size=16)
    return target
