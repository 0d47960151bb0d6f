"""Latency of one encoder in every form, each in a process of its own, in alternation."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch

from edgessl.bench.case import input_of
from edgessl.bench.process import Worker, WorkerError
from edgessl.device.bundle.onnxwire import with_constant
from edgessl.device.storage.files import write_atomically
from edgessl.encoders import Encoder, build_encoder, collect_batch_statistics
from edgessl.evaluate import embed
from edgessl.layout import ParameterLayout
from export.agreement import compare
from export.parity import random_fields
from export.quantize import Settings, float_encoder, quantize_graph
from export.quantize.int4 import blocked_weights, pack_weights
from export.quantize.members import exact_results
from export.trace import trace_encoder

BATCHES = (1, 32)
CALIBRATION = 128
TIMEOUT_S = 300.0
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ds_cnn_s": ("ds_cnn_s", {"norm": "batch"}),
    "ds_cnn_s, group norm": ("ds_cnn_s", {}),
    "resnet8": ("resnet8", {"norm": "batch"}),
    "cnn1d": ("cnn1d", {"norm": "batch"}),
    "vit": ("vit", {}),
}
# form -> (what runs it, whether onnxruntime may lay tensors out anew, which only constant weights allow)
FORMS: dict[str, tuple[str, bool]] = {
    "torch eager": ("torch", False),
    "fp32, weights an input": ("onnxruntime", False),
    "fp32": ("onnxruntime", False),
    "fp32, all optimizations": ("onnxruntime", True),
    "fp32, following": ("onnxruntime", True),
    "int8": ("onnxruntime", False),
    "int8, all optimizations": ("onnxruntime", True),
    "tensorrt form": ("onnxruntime", False),
    "int4 packed": ("onnxruntime", False),
    "int4 blocked": ("onnxruntime", False),
}
REFERENCES = ("torch eager", "fp32, weights an input", "fp32", "fp32, all optimizations")


def latencies(
    name: str, threads: int, turns: int, seconds: float, progress: Callable[[str], None], graphs: str = ""
) -> list[dict[str, Any]]:
    """One row per form of the encoder `name`: bytes, open_ms (until it can run), ms at batch 1 and 32 (median of the
    turns' medians), of all but `REFERENCES` also how many times `faster_than` each of those at both, and cosine and
    neighbour overlap to torch on random inputs.

    The weights are fresh, batch statistics those of the inputs: latency does not depend on them. Without turns the
    forms are only written, to the folder `graphs`; what is there already is not made again.
    """
    times: dict[tuple[str, int], list[float]] = {}
    with TemporaryDirectory(prefix="edgessl-quantize-") as text, ExitStack() as stack:
        folder = Path(graphs or text) / name.replace(", ", "-").replace(" ", "-")
        rows = _written(name, folder, progress)
        if not turns:
            return []
        workers: dict[str, Worker] = {}
        for form, (runtime, everything) in FORMS.items():
            worker = stack.enter_context(
                Worker("edgessl.bench.quantize.worker", {"OMP_NUM_THREADS": str(threads)}, TIMEOUT_S)
            )
            job = {"runtime": runtime, "everything": everything, "threads": threads, "encoder": name}
            try:
                rows[form] |= worker.ask({**job, "folder": str(folder), "file": rows[form].pop("file")})
            except WorkerError as error:
                rows[form]["error"] = str(error)
                continue
            workers[form] = worker
        for turn in range(turns):
            progress(f"{name}: turn {turn + 1} of {turns}")
            for form, worker in workers.items():
                for batch in BATCHES:
                    answer = worker.ask({"batch": batch, "seconds": seconds})
                    times.setdefault((form, batch), []).append(statistics.median(answer["ms"]))
    for (form, batch), medians in times.items():
        rows[form][f"ms_{batch}"] = round(statistics.median(medians), 4)
    measured = {form: row for form, row in rows.items() if "ms_1" in row}
    for form in set(measured) - set(REFERENCES):
        measured[form]["faster_than"] = {
            reference: [round(rows[reference][f"ms_{n}"] / measured[form][f"ms_{n}"], 2) for n in BATCHES]
            for reference in REFERENCES
            if reference in measured
        }
    return list(rows.values())


def fresh(name: str, samples: np.ndarray[Any, Any]) -> Encoder:
    """The encoder with initial weights and the batch statistics of `samples`, in evaluation mode."""
    kind, options = ENCODERS[name]
    spec = input_of(kind)
    encoder = build_encoder(kind, spec.shape, mean=spec.mean, std=spec.std, **options).train()
    with torch.no_grad():
        encoder(torch.from_numpy(samples))
        for path, value in collect_batch_statistics(encoder).items():
            encoder.get_buffer(path).copy_(value)
    return encoder.eval()


def _written(name: str, folder: Path, progress: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """The rows of the forms in `folder`, which are made now unless they are there."""
    index = folder / "rows.json"
    if not index.is_file():
        progress(f"{name}: writing")
        folder.mkdir(parents=True, exist_ok=True)
        x = random_fields(input_of(ENCODERS[name][0]), CALIBRATION + 64, 0)
        encoder = fresh(name, x[:64])
        np.savez(folder / "inputs.npz", x=x[: max(BATCHES)])
        torch.save(encoder.state_dict(), folder / "torch.pt")
        rows: dict[str, dict[str, Any]] = {}
        _write(encoder, x[:CALIBRATION], x[CALIBRATION:], folder, rows, name)
        write_atomically(index, json.dumps(rows).encode())
    read: dict[str, dict[str, Any]] = json.loads(index.read_text())
    return read


def _write(
    encoder: Encoder,
    calibration: np.ndarray[Any, Any],
    held_out: np.ndarray[Any, Any],
    folder: Path,
    rows: dict[str, dict[str, Any]],
    name: str,
) -> None:
    """The graph of every form in `folder`, and its row."""
    wrapped = torch.nn.ModuleDict({"encoder": encoder})
    layout = ParameterLayout.of(wrapped)
    theta = layout.flatten_module(wrapped).numpy()
    np.save(folder / "theta.npy", theta)
    graph = float_encoder(encoder)
    int8 = quantize_graph(graph, calibration).graph.model()
    floating = graph.model()
    learning = trace_encoder(encoder, layout)
    # as FollowingEncoder has it
    following = onnx.load_from_string(with_constant(learning.SerializeToString(), "theta", theta))
    models = {
        "fp32, weights an input": learning,
        "fp32": floating,
        "fp32, all optimizations": floating,
        "fp32, following": following,
        "int8": int8,
        "int8, all optimizations": int8,
        "tensorrt form": quantize_graph(graph, calibration, Settings(weight_bits=8), "tensorrt").graph.model(),
        "int4 packed": pack_weights(graph).model(),
        "int4 blocked": blocked_weights(graph),
    }
    expected = embed(encoder, held_out)
    for i, form in enumerate(FORMS):
        row: dict[str, Any] = {"encoder": name, "form": form, "file": "torch.pt"}
        if form in models:
            data = models[form].SerializeToString(deterministic=True)
            row["file"] = f"{i}.onnx"
            (folder / row["file"]).write_bytes(data)
            row["bytes"] = len(data) + (theta.nbytes if form == "fp32, weights an input" else 0)
            if "weights an input" not in form:
                row |= compare(exact_results(models[form], held_out), expected)
        rows[form] = row
