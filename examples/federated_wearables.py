"""A fleet of wrists: each wearer's watch learns on its own windows, weights are shared, windows are not.

    python examples/federated_wearables.py                     # in this process; needs har_phone_watch.npz
    python examples/federated_wearables.py --nodes --seeds 0   # a real server with TLS and a lean node per wearer

Phone windows of subjects 1-9 pretrain a 1-D CNN without labels; subjects 10-18 then wear a watch each, a device with
its own unlabelled stream. Figures are balanced accuracies of 20 nearest neighbours on the watch windows of subjects
19-23, whom nobody has seen; labelled watch windows of subjects 1-18 are the bank (labels judge, they never train).
"frozen" is what was exported, "alone" the mean over devices that took the same steps without the fleet.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.continual.metrics import mean_and_std
from edgessl.data import Subset, load_shared
from edgessl.device import Bundle, EncoderRunner, Learner
from edgessl.errors import EdgeSSLError
from edgessl.evaluate import knn_accuracy
from edgessl.pretrain import pretrain
from edgessl.recipe import Part, Recipe
from export import export_bundle
from federated import Learners, catch_up, make_client_app, make_server_app, run_local
from federated.result import FederationResult
from federated.settings import RoundSettings

TEST_SUBJECTS = tuple(range(19, 24))
WEARERS = tuple(range(10, 19))
MEMORY_BYTES = 4 << 20
RULE = {"rule": "fedema"}


def run(seed: int, options: argparse.Namespace) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """One seed: the figures by name, and the rounds."""
    phone = load_shared("har_phone_watch", device="phone", test_subjects=TEST_SUBJECTS)
    watch = load_shared("har_phone_watch", device="watch", test_subjects=TEST_SUBJECTS)
    bank, queries = (side.take(np.arange(len(side))) for side in (watch.train, watch.test))
    subjects = np.asarray(watch.train_groups["subject"])
    streams = [np.ascontiguousarray(bank[subjects == wearer]) for wearer in WEARERS]
    known = np.flatnonzero(~np.isin(phone.train_groups["subject"], WEARERS))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = Recipe(
            encoder=Part(name="cnn1d"), batch_size=64, epochs=options.epochs, hyper={"lr": 0.002}, seed=seed
        )
        note(f"seed {seed}: pretraining on {len(known)} phone windows")
        checkpoint = pretrain(recipe, Subset(phone.train, known))
        bundle = export_bundle(
            checkpoint, folder / "fleet.edgessl", calibration=phone.train.take(known[::5]), hyper={"lr": 5e-4}
        )
        runner = EncoderRunner(bundle)

        def judge(theta: np.ndarray) -> float:
            z = [runner.embed(theta, x) for x in (bank, queries)]
            return knn_accuracy(
                z[0], np.asarray(watch.train.labels), z[1], np.asarray(watch.test.labels), balanced=True
            )

        figures = {"frozen": judge(bundle.state()["theta"])}
        note(f"seed {seed}: {len(streams)} devices alone")
        alone = [
            judge(learn_alone(bundle, stream, folder / f"alone-{i}", seed + i, options))
            for i, stream in enumerate(streams)
        ]
        figures["alone"] = float(np.mean(alone))
        note(f"seed {seed}: the fleet")
        federate = federate_nodes if options.nodes else federate_here
        result = federate(bundle, streams, folder, seed, options)
        figures["federated"] = judge(result.theta)
    return figures, result.rounds


def learn_alone(bundle: Bundle, stream: np.ndarray, state: Path, seed: int, options: argparse.Namespace) -> np.ndarray:
    """What a device comes to by itself, with as many steps as in the fleet."""
    with Learner.open(bundle, state, memory_bytes=MEMORY_BYTES, seed=seed) as learner:
        catch_up(learner, stream)
        learner.learn(max_steps=options.rounds * options.local_steps)
        return learner.theta


def federate_here(
    bundle: Bundle, streams: list[np.ndarray], folder: Path, seed: int, options: argparse.Namespace
) -> FederationResult:
    """The fleet in this process: Flower's messages, no network."""
    saved = folder / "theta.safetensors"
    server = make_server_app(
        bundle.state()["theta"],
        bundle.digest,
        RoundSettings(options.rounds, min_nodes=len(streams), seed=seed, codec=options.codec, downlink=options.codec),
        layout=bundle.manifest.parameters,
        client_config=RULE,
        save_to=saved,
    )

    def open_learner(context: Any) -> Learner:
        i = int(context.node_config["partition-id"])
        learner = Learner.open(bundle, folder / f"device-{i}", memory_bytes=MEMORY_BYTES, seed=seed + i)
        catch_up(learner, streams[i])
        return learner

    with Learners(open_learner) as learners:
        run_local(server, make_client_app(learners, local_steps=options.local_steps), len(streams), {})
    return FederationResult.load(saved, bundle.digest)


def federate_nodes(
    bundle: Bundle, streams: list[np.ndarray], folder: Path, seed: int, options: argparse.Namespace
) -> FederationResult:
    """The fleet as it is deployed: a server with TLS that knows each device's key, a lean node per wearer."""
    from federated.deployment import certificates
    from federated.deployment.programs import Programs, environment, free_port
    from federated.node import Identity

    port, tls, keys = free_port(), folder / "tls", folder / "keys"
    certificates.create_authority(tls)
    certificates.issue_server(tls, [])
    keys.mkdir()
    (folder / "logs").mkdir()
    edgessl = (sys.executable, "-m", "edgessl", "federate")
    with Programs(environment(folder / "flwr"), folder / "logs", options.timeout) as programs:
        for i, stream in enumerate(streams):
            Identity.create(keys / f"wrist-{i}")
            np.save(folder / f"stream-{i}.npy", stream)
            where = ("--server", f"127.0.0.1:{port}", "--ca", str(tls / "ca.crt"), "--key", str(keys / f"wrist-{i}"))
            own = ("--state", str(folder / f"device-{i}"), "--stream", str(folder / f"stream-{i}.npy"))
            steps = ("--seed", str(seed + i), "--local-steps", str(options.local_steps), "--poll", "0.5", "5")
            programs.start(f"wrist-{i}", *edgessl, "join", str(folder / "fleet.edgessl"), *where, *own, *steps)
        served = (
            "--tls",
            str(tls),
            "--devices",
            str(keys),
            "--port",
            str(port),
            "--run",
            str(folder / "fleet.edgessl"),
        )
        asked = ("--rounds", str(options.rounds), "--min-nodes", str(len(streams)), "--seed", str(seed))
        told = ("--codec", options.codec, "--downlink", options.codec, "--client", f"rule={RULE['rule']}")
        programs.start("serve", *edgessl, "serve", str(folder / "server"), *served, *asked, *told)
        programs.wait_for("serve")
    return FederationResult.load(folder / "server" / "run" / "theta.safetensors", bundle.digest)


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--local-steps", type=int, default=16)
    parser.add_argument("--codec", default="whole", help="how weights travel, such as int8 or topk:0.1+int8")
    parser.add_argument("--nodes", action="store_true", help="real server and lean nodes instead of this process")
    parser.add_argument("--timeout", type=float, default=600.0, help="of --nodes, seconds")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    try:
        runs = [run(seed, options) for seed in options.seeds]
    except EdgeSSLError as error:
        sys.exit(f"federated_wearables: {error}")
    table = {name: mean_and_std([figures[name] for figures, _ in runs]) for name in runs[0][0]}
    for name, figure in table.items():
        print(f"{name:10} {figure['mean']:.3f} ± {figure['std']:.3f}")
    up, down = (sum(r[key] for r in runs[0][1]) / len(WEARERS) for key in ("bytes_up", "bytes_down"))
    print(f"a device sent {up:,.0f} bytes and got {down:,.0f} in {options.rounds} rounds")
    if options.out is not None:
        how = "C: real wire" if options.nodes else "A: in process"
        figures = {"balanced_accuracy": table, "seeds": options.seeds, "level": how, "bytes_up": up, "bytes_down": down}
        options.out.write_text(
            json.dumps(figures | {"options": {k: str(v) for k, v in vars(options).items()}}, indent=1)
        )


if __name__ == "__main__":
    main()
