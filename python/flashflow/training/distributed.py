"""Several processes, started by torchrun, that train one model.

The processes see the rows of one batch, each its own part, and average their gradients: N processes with batches of B
compute what one process does with batches of N * B. ddp keeps the whole model in each; fsdp (FSDP2) keeps in each a
part of every parameter, and of its moments, and gathers a block's parameters while the block computes.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from flashflow.errors import FailedPreconditionError, FlashFlowError
from flashflow.log import logger
from flashflow.models.transformer_blocks import TransformerBlock
from flashflow.torch_device import torch_device


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: this one's number; 0 writes files and talks to people.
        size: how many there are.
        local_rank: this one's number on its machine, and that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and talks to people."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def max(self, values: Tensor) -> Tensor:
        """The elementwise maximum over all processes, in each."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def gather(self, value: Tensor) -> list[Tensor]:
        """What each process gave, in each; all of one shape, on the processes' device."""
        if self.size == 1:
            return [value]
        gathered = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            dist.barrier()


# The groups that this process has left. The one who lets go of a group last joins its threads, and they may need the
# GIL to free the last tensors that they have moved: Python lets go without the GIL, but DDP's reducer with it, and
# would wait forever. So it is never the last.
_left_groups: list[dist.ProcessGroup] = []
# For that long the GIL is free when a group is left: a thread that still waited for it when the interpreter ends would
# end the process by an abort.
_FREE_GIL_S = 0.2


@contextlib.contextmanager
def joined_processes(device: str) -> Iterator[World]:
    """The processes that torchrun started; a process that it did not start is alone.

    The first process that fails says why. The others, which fail of the same or because it is gone, end in silence.

    Args:
        device: as of TrainConfig; GPUs talk by NCCL, CPUs by gloo.

    Raises:
        FailedPreconditionError: another process is gone, of something that is not an exception.
        SystemExit: another process has failed.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size <= 1:
        yield World()
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    place = torch_device(device, world.local_rank)
    if place.type == "cuda":
        dist.init_process_group("nccl", device_id=place)
    else:
        dist.init_process_group("gloo")
    try:
        yield world
    except Exception as error:
        if not _is_first_to_fail():
            logger.debug("process %d ends after another one", world.rank, exc_info=error)
            raise SystemExit(1) from error
        if not isinstance(error, FlashFlowError) and _says_that_another_is_gone(error):
            raise FailedPreconditionError(
                "another process of the run has ended",
                hint="torchrun says below how; --resume goes on from the newest checkpoint",
            ) from error
        raise
    # Not after an error: the others may be waiting in a collective, and torchrun ends them.
    _left_groups.append(dist.distributed_c10d._get_default_group())
    dist.destroy_process_group()
    time.sleep(_FREE_GIL_S)


def _is_first_to_fail() -> bool:
    try:
        return int(dist.distributed_c10d._get_default_store().add("flashflow/failed", 1)) == 1
    except RuntimeError:  # the store is gone, and so the process that kept it
        return False


def _says_that_another_is_gone(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, dist.DistError) or any(
        words in said for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    )


@contextlib.contextmanager
def main_process_first(world: World) -> Iterator[None]:
    """Process 0 runs the body before the others: what it leaves in files they find."""
    if not world.is_main:
        world.barrier()
    yield
    if world.is_main:
        world.barrier()


# Buffers are not sent round before each pass: all processes compute the same. torch 2.13 has another name for it.
_OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


def parallelize(loss: nn.Module, parallel: str, world: World) -> nn.Module:
    """What computes the loss of this process's rows and, in its backward pass, averages gradients over the processes.

    Args:
        loss: on its device. With fsdp its parameters become DTensors in place.
        parallel: ddp | fsdp.
        world: the processes.
    """
    if world.size == 1:
        return loss
    if parallel == "ddp":
        return DistributedDataParallel(loss, gradient_as_bucket_view=True, **_OWN_BUFFERS)
    for block in loss.modules():
        if isinstance(block, TransformerBlock):
            fully_shard(block)
    sharded: nn.Module = fully_shard(loss)
    return sharded


@contextlib.contextmanager
def gradient_sync(loss: nn.Module, enabled: bool) -> Iterator[None]:
    """Runs a forward and backward pass that averages gradients over the processes, or only adds to this one's own.

    Args:
        loss: of `parallelize`.
        enabled: False in all passes of an accumulation but the last.
    """
    if isinstance(loss, DistributedDataParallel) and not enabled:
        with loss.no_sync():
            yield
        return
    if isinstance(loss, FSDPModule):
        loss.set_requires_gradient_sync(enabled)
    yield


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over the processes, all of it in each; every process must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in the dtype, on the device, and spread as `like` is; every process must call."""
    tensor = tensor.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor
