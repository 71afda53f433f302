"""Builds of the kernels' shared library, called by the C functions of kernels/cuda/testing/c_api_*.cc."""

import ctypes
from functools import cached_property
from pathlib import Path

import torch


class Library:
    """One build; it is loaded at the first call, so that cases can be listed where it cannot."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _loaded(self) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.path.resolve()))

    def call(self, function: str, *arguments: torch.Tensor | int | float | None) -> None:
        """Calls `function` on torch's current stream.

        Tensors go as pointers and None as the null pointer, bool and int as int, float as float; the stream is added
        as the last argument.

        Raises:
            RuntimeError: the function returned an error, whose number is named.
        """
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        status = getattr(self._loaded, function)(*(_argument(a) for a in arguments), stream)
        if status != 0:
            raise RuntimeError(f"{function} returned cudaError {status}")


Libraries = dict[str, Library]  # by the name of the variant: "ours" first, then other builds to compare with


def _argument(value: torch.Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_float:
    if value is None:
        return ctypes.c_void_p(0)
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int(value)
