"""The process whose children are killed: each opens a learner, observes, learns, saves, and is shot at a random moment.

No session of onnxruntime is made here, so that a fork starts clean; what a child left is judged before the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgessl.device import Bundle, Learner
from edgessl.device.storage.checkpoint import Checkpoint
from edgessl.device.storage.tensors import Array
from edgessl.errors import EdgeSSLError

MEMORY_BYTES, PER_SAVE = 64 << 10, 6
LONGEST_S = 0.15  # from a child's first save to its end
ACK = struct.Struct("<QQ32s")  # generation, samples observed, SHA-256 of theta


def main() -> None:
    """Answer JSON lines {kills} until stdin ends; the first line says bundle, folder and seed."""
    job = json.loads(sys.stdin.readline())
    bundle = Bundle.open(job["bundle"])
    rng, state = random.Random(job["seed"]), Path(job["folder"]) / "state"
    print(json.dumps({"ready": True}), flush=True)
    last = (0, 0, b"")
    for line in sys.stdin:
        answer: dict[str, Any] = {"corrupted": 0, "lost": 0, "unsaved": 0, "acknowledged": 0, "found": []}
        for _ in range(json.loads(line)["kills"]):
            acknowledged = _shoot(bundle, state, rng)
            answer["acknowledged"] += len(acknowledged)
            last = acknowledged[-1] if acknowledged else last
            wrong, last = _judge(bundle, state, last)
            answer["unsaved"] += wrong == "unsaved"  # a save was on its way, and is there
            if wrong not in ("", "unsaved"):
                answer["lost" if wrong.startswith("lost") else "corrupted"] += 1
                answer["found"].append(wrong)
        print(json.dumps(answer), flush=True)


def _shoot(bundle: Bundle, state: Path, rng: random.Random) -> list[tuple[int, int, bytes]]:
    """Let a child live for a while; what it acknowledged."""
    read, write = os.pipe()
    seed, delay = rng.randrange(1 << 30), rng.random() * LONGEST_S
    child = os.fork()
    if child == 0:
        os.close(read)
        _live(bundle, state, write, seed)
    os.close(write)
    data = os.read(read, ACK.size)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 1 << 16):
        data += more
    os.close(read)
    return [ACK.unpack_from(data, i) for i in range(0, len(data) - ACK.size + 1, ACK.size)]


def _live(bundle: Bundle, state: Path, write: int, seed: int) -> NoReturn:
    try:
        rng = np.random.default_rng(seed)
        learner = Learner.open(bundle, state, memory_bytes=MEMORY_BYTES)
        while True:
            learner.observe(rng.random((PER_SAVE, *bundle.manifest.input.shape), dtype=np.float32))
            learner.learn(max_steps=1)
            trial = rng.random() < 0.2
            generation = learner.save(trial=trial)
            if trial:
                generation = learner.mark_good()
            os.write(write, ACK.pack(generation, learner.metrics()["observed"], _sha(learner.theta)))
    except BaseException as error:
        print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


def _sha(theta: Array) -> bytes:
    return hashlib.sha256(theta.tobytes()).digest()


def _judge(bundle: Bundle, state: Path, last: tuple[int, int, bytes]) -> tuple[str, tuple[int, int, bytes]]:
    """What is wrong with the directory, "" for nothing, and where the next child starts from."""
    try:
        checkpoint = Checkpoint(state, bundle.digest)
    except EdgeSSLError as error:
        return f"corrupted: {error}", last
    try:
        saved = checkpoint.load()
        problems = checkpoint.store.problems
    except EdgeSSLError as error:
        return f"corrupted: {error}", last
    finally:
        checkpoint.store.close()
    trials = [problem for problem in problems if "never marked good" in problem]
    if len(problems) > len(trials):
        return f"corrupted: {problems}", last
    if saved is None:
        return ("lost: nothing is there" if last[0] else ""), last
    theta, observed = saved.part("slot")["theta"], int(saved.part("learner")["counts"][0])
    now = (saved.generation, observed, _sha(theta))
    memory = saved.part("memory")
    if memory["counts"][0] != observed or not np.isfinite(theta).all() or not np.isfinite(memory["slots"]).all():
        return "corrupted: memory and learner disagree", now
    if saved.generation < last[0]:
        return f"lost: generation {last[0]} was acknowledged, {saved.generation} is there", now
    if saved.generation == last[0] and now != last:
        return "corrupted: not what was acknowledged", now
    return ("unsaved" if saved.generation > last[0] else ""), last  # a trial that was not acknowledged may go again


if __name__ == "__main__":
    main()
