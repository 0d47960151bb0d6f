"""A wearable: pretrain on phones, learn on from a watch's unlabelled stream, test on people never seen.

    python examples/wearable.py                      # needs har_phone_watch.npz; EDGESSL_DATA names its folder
    python examples/wearable.py --seeds 0 --out runs/wearable.json

Phone windows of subjects 1-18 pretrain a 1-D CNN without labels; the exported device then sees watch windows of the
same subjects in recorded order and learns with numpy and onnxruntime alone. Figures are balanced accuracies of 20
nearest neighbours on subjects 19-23; "phone bank" judges watch windows by labelled PHONE windows, the transfer proper.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgessl.continual.metrics import mean_and_std
from edgessl.data import load_shared
from edgessl.device import EncoderRunner, FrozenEncoderRunner, Learner
from edgessl.errors import EdgeSSLError
from edgessl.evaluate import embed, knn_accuracy
from edgessl.pretrain import Progress, pretrain
from edgessl.recipe import Part, Recipe, build_step
from export import export_bundle

TEST_SUBJECTS = tuple(range(19, 24))
KNOWN = 600  # phone windows the device still meets before it is moved to the wrist
MEMORY_BYTES = 4 << 20


def run(seed: int, epochs: int, steps_per_batch: int) -> dict[str, float]:
    """One seed: the balanced accuracies by name."""
    phone = load_shared("har_phone_watch", device="phone", test_subjects=TEST_SUBJECTS)
    watch = load_shared("har_phone_watch", device="watch", test_subjects=TEST_SUBJECTS)
    sides = {"phone": (phone.train, phone.test), "watch": (watch.train, watch.test)}
    windows = {
        (name, part): (side.take(np.arange(len(side))), np.asarray(side.labels))
        for name, pair in sides.items()
        for part, side in zip(("bank", "query"), pair, strict=True)
    }
    figures: dict[str, float] = {}

    def judge(name: str, embedder) -> None:
        z = {key: embedder(x) for key, (x, _) in windows.items()}
        for bank, query in (("phone", "phone"), ("phone", "watch"), ("watch", "watch")):
            figures[f"{name}: {query}, {bank} bank"] = knn_accuracy(
                z[bank, "bank"], windows[bank, "bank"][1], z[query, "query"], windows[query, "query"][1], balanced=True
            )

    recipe = Recipe(encoder=Part(name="cnn1d"), epochs=epochs, hyper={"lr": 0.002}, seed=seed)

    def show(p: Progress) -> None:
        print(f"\rpretraining {p.step}/{p.total}, loss {p.metrics['loss']:.2f} ", end="", file=sys.stderr, flush=True)

    checkpoint = pretrain(recipe, phone.train, on_progress=show)
    untrained = build_step(recipe, checkpoint.input).parts.encoder
    judge("random", lambda x: embed(untrained, x))
    with tempfile.TemporaryDirectory() as folder:
        print("\nexporting", file=sys.stderr)
        calibration = windows["phone", "bank"][0][::5]
        bundle = export_bundle(
            checkpoint, Path(folder) / "wearable.edgessl", calibration=calibration, hyper={"lr": 5e-4}
        )
        runner = EncoderRunner(bundle)
        judge("frozen", lambda x: runner.embed(bundle.state()["theta"], x))
        judge("frozen int8", FrozenEncoderRunner(bundle).embed)
        with Learner.open(bundle, Path(folder) / "state", memory_bytes=MEMORY_BYTES, seed=seed) as device:
            known, stream = windows["phone", "bank"][0], windows["watch", "bank"][0]
            device.observe(known[np.random.default_rng(seed).permutation(len(known))[:KNOWN]])
            for start in range(0, len(stream), 32):
                device.observe(stream[start : start + 32])
                device.learn(max_steps=steps_per_batch)
                print(f"\rlearning on the wrist {start}/{len(stream)} ", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            judge("adapted", device.embed)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps-per-batch", type=int, default=4, help="training steps after every 32 watch windows")
    parser.add_argument("--out", type=Path, default=Path("runs/wearable.json"))
    arguments = parser.parse_args()
    try:
        runs = [run(seed, arguments.epochs, arguments.steps_per_batch) for seed in arguments.seeds]
    except EdgeSSLError as error:
        sys.exit(f"wearable: {error}")
    table = {name: mean_and_std([r[name] for r in runs]) for name in runs[0]}
    for name, figure in table.items():
        print(f"{name:32} {figure['mean']:.3f} ± {figure['std']:.3f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"balanced_accuracy": table, "seeds": arguments.seeds}, indent=1))


if __name__ == "__main__":
    main()
