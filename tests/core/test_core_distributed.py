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
                           "hyper": {"lr": 0.01}, "batch_size": 32, "epochs": 1})
    shared = folder / f"{name}.shared.ckpt"
    pretrain(recipe, source, checkpoint=shared).save(folder / f"{name}.{os.environ['RANK']}.ckpt")
dist.destroy_process_group()
"""

JOIN = """
import torch, torch.distributed as dist
from edgessl.distributed import Processes
Processes.from_environment(torch.device("cpu"))
"""


Runs = dict[
    str, dict[str, Checkpoint]
]  # objective -> "0", "1": what each process returned; "shared": the file; "alone"


def together(programs: list[str], *arguments: str) -> list[str]:
    """Run one program per process as `torchrun` would; what each said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    count = str(len(programs))
    common = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, **common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, program in enumerate(programs)
    ]
    try:
        said = [worker.communicate(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * len(workers), "\n".join(err for _, err in said)
    return [out.strip() for out, _ in said]


@pytest.fixture(scope="module")
def runs(digits: Source, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Three steps of each objective, by two processes that share the batch and by one alone."""
    folder = tmp_path_factory.mktemp("distributed")
    np.save(folder / "samples.npy", digits.take(np.arange(96)))
    together([WORKER] * 2, str(folder), *OBJECTIVES)
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
        # a ReLU within rounding of zero may flip: larger steps than these amplified one to 1e-2 on some processors
        assert (first.state[slot] - value).norm() / value.norm() < 1e-5, slot
    # loss and gradient norm are the joined batch's
    np.testing.assert_allclose(first.history[:, :3], alone.history[:, :3], rtol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_process_returns_the_same_history(runs: Runs, name: str) -> None:
    np.testing.assert_array_equal(runs[name]["0"].history, runs[name]["1"].history)


def test_the_watched_figures_are_the_joined_batchs(runs: Runs) -> None:
    # alignment pairs rows across views: it is wrong unless the processes' rows are put view by view
    for name in ("simclr", "byol"):
        found, alone = runs[name]["0"].rows()[-1], runs[name]["alone"].rows()[-1]
        for figure in ("alignment", "uniformity", "rankme"):
            assert found[figure] == pytest.approx(alone[figure], rel=1e-3), (name, figure)


def test_rows_are_put_view_by_view() -> None:
    # two processes with two samples each: process, view, sample -> view, process, sample
    gathered = torch.tensor([[rank, view, n] for rank in range(2) for view in range(3) for n in range(2)])
    expected = torch.tensor([[rank, view, n] for view in range(3) for rank in range(2) for n in range(2)])
    assert torch.equal(Processes(0, 2).by_view(gathered, 4), expected)
    assert Processes().by_view(gathered, 4) is gathered


def test_the_first_process_can_stop_both() -> None:
    def stop(rank: int) -> str:
        asked = f"found.any(False), found.any({rank} == 1)"
        return f"dist.barrier(); found = Processes({rank}, 2); print({asked}); dist.destroy_process_group()"

    said = together([f"{JOIN}\n{stop(rank)}" for rank in range(2)])
    assert said == ["False True", "False True"]


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
