"""Data-parallel training under `torchrun`: the joined batch's loss on every process, ONE all-reduce of the flat
gradient.

Each process embeds its share of the batch; losses that couple samples see everybody's embeddings (`gather`), with
gradients through one's own. The sum of the processes' gradients is then the joined batch's gradient, for every
objective. Batch norm normalises with each process's own statistics and averages the running ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout
from edgessl.step import Gradient


@dataclass(frozen=True)
class Processes:
    """This process among `count`; a single process needs no communication."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls, device: torch.device) -> Processes:
        """Join the process group that `torchrun` describes (NCCL on GPUs, gloo on CPUs), or stand alone."""
        if "WORLD_SIZE" not in os.environ:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, batch_size: int) -> slice:
        """Rows of the joined batch that this process takes."""
        if batch_size % self.count:
            raise ConfigError(f"batch_size {batch_size} does not divide among {self.count} processes")
        mine = batch_size // self.count
        return slice(self.rank * mine, (self.rank + 1) * mine)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows `(n, D)` of every process as `(n * count, D)`, in rank order; gradients reach this process's own."""
        if self.count == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        dist.all_gather(parts, rows.detach().contiguous())
        parts[self.rank] = rows
        return torch.cat(parts)

    def reduce(self, gradient: Gradient, layout: ParameterLayout) -> Gradient:
        """Sum the flat gradient over the processes; batch statistics, which ride along, are averaged."""
        if self.count == 1:
            return gradient
        direction = gradient.direction.clone()
        direction[layout.trained_end : layout.statistics_end] /= self.count
        dist.all_reduce(direction)
        return replace(gradient, direction=direction)

    def by_view(self, gathered: Tensor, batch_size: int) -> Tensor:
        """`gather`ed embeddings `(M, D)`, process by process, as rows view by view; M a multiple of `batch_size`."""
        if self.count == 1:
            return gathered
        views = len(gathered) // batch_size
        parts = gathered.reshape(self.count, views, batch_size // self.count, *gathered.shape[1:])
        return parts.transpose(0, 1).reshape(gathered.shape)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is True in any process; every process has to ask."""
        if self.count == 1:
            return flag
        found = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(found)
        return bool(found)
