"""From --device to torch's device."""

from __future__ import annotations

import torch

from flashflow.errors import FailedPreconditionError

__all__ = ["torch_device"]


def torch_device(name: str, process: int = 0) -> torch.device:
    """The device that torch computes on, which becomes torch's current one.

    Args:
        name: "cpu", "cuda", or "auto": the GPU where torch finds one.
        process: the number of this process on its machine, and that of its GPU.

    Raises:
        FailedPreconditionError: it is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise FailedPreconditionError(
            "torch finds no CUDA device",
            op="--device",
            hint="use --device cpu, or a CUDA build of torch with a driver",
        )
    if process >= gpus:
        raise FailedPreconditionError(
            f"process {process} of this machine has no GPU of its own: there are {gpus}",
            op="--device",
            hint=f"start at most {gpus} with torchrun --nproc-per-node, or use --device cpu",
        )
    device = torch.device("cuda", process)
    torch.cuda.set_device(device)
    return device
