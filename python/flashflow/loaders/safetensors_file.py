"""Tensors of a safetensors file, mapped and read lazily, bf16 included (which numpy lacks)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from flashflow.errors import DataLossError, NotFoundError, UnsupportedError
from flashflow.loaders.weight import LazyWeight, WeightDType

__all__ = ["open_safetensors"]

_DTYPES: dict[str, tuple[WeightDType, type[np.generic]]] = {
    "F32": ("f32", np.float32),
    "F16": ("f16", np.float16),
    "BF16": ("bf16", np.uint16),
}


def open_safetensors(path: Path) -> dict[str, LazyWeight]:
    """The file's tensors by name. Nothing is read yet but the header.

    Raises:
      NotFoundError: there is no such file.
      DataLossError: it is truncated or its header is damaged.

    A tensor of a type that weights do not have (such as I64) is refused only when it is read: old files carry buffers
    that nothing uses.
    """
    try:
        with safe_open(str(path), framework="np"):  # checks the header: sizes, overlaps, offsets against the file
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(header_bytes))
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + header_bytes)
    except (SafetensorError, ValueError) as error:
        raise DataLossError(
            f"{path} is not a whole safetensors file: {error}", op=str(path), hint="fetch it again"
        ) from error
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror or error}", op=str(path)) from error
    header.pop("__metadata__", None)
    return {name: _weight(name, entry, data, path) for name, entry in header.items()}


def _weight(name: str, entry: dict[str, Any], data: npt.NDArray[np.uint8], path: Path) -> LazyWeight:
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in _DTYPES:

        def refuse() -> npt.NDArray[Any]:
            raise UnsupportedError(
                f"tensor {name!r} of {path} has dtype {entry['dtype']}: expected one of {', '.join(_DTYPES)}", op=name
            )

        return LazyWeight(name, shape, "f32", refuse)
    dtype, numpy_dtype = _DTYPES[entry["dtype"]]
    if not 0 <= begin <= end <= data.size or end - begin != math.prod(shape) * np.dtype(numpy_dtype).itemsize:
        raise DataLossError(f"tensor {name!r} of {path} does not fit its place in the file", op=name)
    return LazyWeight(name, shape, dtype, lambda: data[begin:end].view(numpy_dtype).reshape(shape))
