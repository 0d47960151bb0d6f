"""Two processes with half a batch each take the step of one process with all of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from edgessl.checkpoint import Checkpoint
from edgessl.data import Source, array_source
from edgessl.distributed import Processes
from edgessl.errors import ConfigError
from edgessl.pretrain import pretrain

OBJECTIVES = ("simclr", "vicreg", "byol", "moco")
WORKER = """
import sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from edgessl.data import array_source
from edgessl.pretrain import pretrain
from edgessl.recipe import parse_recipe
import torch.distributed as dist, os
folder = Path(sys.argv[1])
source = array_source(np.load(folder / "samples.npy"), kind="image", layout="channels_first")
for name in sys.argv[2:]:
    recipe = parse_recipe({"encoder": {"name": "ds_cnn_s"}, "objective": {"name": name}, "optimizer": "sgd",
                           "batch_size": 32, "epochs": 1})
    shared = folder / f"{name}.shared.ckpt"
    pretrain(recipe, source, checkpoint=shared).save(folder / f"{name}.{os.environ['RANK']}.ckpt")
dist.destroy_process_group()
"""


Runs = dict[
    str, dict[str, Checkpoint]
]  # objective -> "0", "1": what each process returned; "shared": the file; "alone"


@pytest.fixture(scope="module")
def runs(digits: Source, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Three steps of each objective, by two processes that share the batch and by one alone."""
    folder = tmp_path_factory.mktemp("distributed")
    np.save(folder / "samples.npy", digits.take(np.arange(96)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), *OBJECTIVES],
            env={**os.environ, **common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=120)[0].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    source = array_source(np.load(folder / "samples.npy"), kind="image", layout="channels_first")
    found: Runs = {}
    for name in OBJECTIVES:
        found[name] = {who: Checkpoint.load(folder / f"{name}.{who}.ckpt") for who in ("0", "1", "shared")}
        found[name]["alone"] = pretrain(found[name]["0"].recipe, source)
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_equal_one(runs: Runs, name: str) -> None:
    first, second, shared, alone = (runs[name][who] for who in ("0", "1", "shared", "alone"))
    assert alone.step == first.step == 3
    assert (alone.state["theta"] - alone.train_step().initial_state()["theta"]).norm() > 1e-2
    for slot, value in alone.state.items():
        assert torch.equal(first.state[slot], second.state[slot]), slot
        assert torch.equal(first.state[slot], shared.state[slot]), slot
        assert (first.state[slot] - value).norm() / value.norm() < 1e-5, slot
    # loss and gradient norm are the joined batch's
    np.testing.assert_allclose(first.history[:, :3], alone.history[:, :3], rtol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_process_returns_the_same_history(runs: Runs, name: str) -> None:
    np.testing.assert_array_equal(runs[name]["0"].history, runs[name]["1"].history)


def test_a_batch_must_divide() -> None:
    assert Processes(0, 1).share(7) == slice(0, 7)
    assert [Processes(rank, 4).share(8) for rank in range(4)] == [slice(2 * r, 2 * r + 2) for r in range(4)]
    with pytest.raises(ConfigError, match="batch_size 9 does not divide among 4 processes"):
        Processes(0, 4).share(9)


def test_one_process_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Processes.from_environment(torch.device("cpu")) == Processes(0, 1)
    rows = torch.rand(3, 2, requires_grad=True)
    assert Processes().gather(rows) is rows
