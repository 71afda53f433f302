"""Reads the header of a GGUF file (metadata and the tensor table) from untrusted bytes.

The `gguf` package's reader trusts its input: an array said to have 2^60 elements makes it loop until memory ends.
Here every count and size is checked against the bytes that are left before anything is made of it. What the numbers
mean (types, block sizes, dequantization) comes from the package.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from flashflow.errors import DataLossError, NotFoundError, UnsupportedError

__all__ = ["GgufFile", "GgufTensor", "open_gguf"]

_SCALARS: dict[int, tuple[str, int]] = {  # metadata type -> struct format and bytes
    0: ("<B", 1),
    1: ("<b", 1),
    2: ("<H", 2),
    3: ("<h", 2),
    4: ("<I", 4),
    5: ("<i", 4),
    6: ("<f", 4),
    7: ("<?", 1),
    10: ("<Q", 8),
    11: ("<q", 8),
    12: ("<d", 8),
}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4


@dataclass(frozen=True)
class GgufTensor:
    """An entry of the tensor table. shape is row-major (the file has it reversed); data is the tensor's bytes."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class GgufFile:
    """metadata values are int, float, bool, str, or lists of one of these."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


class _Cursor:
    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.offset = data, path, 0

    def fail(self, problem: str) -> DataLossError:
        return DataLossError(
            f"{self.path} is not a whole GGUF file: {problem} at byte {self.offset} of {len(self.data)}",
            op=str(self.path),
            hint="fetch it again",
        )

    def take(self, count: int, what: str) -> int:
        """Moves past count bytes and returns where they start."""
        start = self.offset
        if count > len(self.data) - start:
            raise self.fail(f"{what} needs {count} bytes")
        self.offset += count
        return start

    def unpack(self, layout: str, what: str) -> Any:
        start = self.take(struct.calcsize(layout), what)
        return struct.unpack_from(layout, self.data, start)[0]

    def count(self, layout: str, bytes_each: int, what: str) -> int:
        """A number of things to come, each of at least bytes_each."""
        count: int = self.unpack(layout, what)
        if count * bytes_each > len(self.data) - self.offset:
            raise self.fail(f"{what} says {count}, which does not fit into the file")
        return count

    def text(self, what: str) -> str:
        start = self.take(self.count("<Q", 1, f"length of {what}"), what)
        try:
            return str(self.data[start : self.offset], "utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8") from error

    def value(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self.text(what)
        if kind in _SCALARS:
            return self.unpack(_SCALARS[kind][0], what)
        if kind != _ARRAY:
            raise self.fail(f"{what} has the unknown type {kind}")
        kind = self.unpack("<I", f"element type of {what}")
        if kind == _STRING:
            return [self.text(what) for _ in range(self.count("<Q", 8, f"length of {what}"))]
        if kind not in _SCALARS:
            raise self.fail(f"{what} is an array of the unsupported type {kind}")
        layout, size = _SCALARS[kind]
        count = self.count("<Q", size, f"length of {what}")
        start = self.take(count * size, what)
        return list(struct.unpack_from(f"<{count}{layout[1:]}", self.data, start))


def open_gguf(path: Path) -> GgufFile:
    """The file's metadata and tensors; tensor bytes stay on disk until they are used.

    Raises:
      NotFoundError: there is no such file.
      DataLossError: it is truncated, damaged or no GGUF file.
      UnsupportedError: it is of a version or byte order that is not read here.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise DataLossError(f"{path} is empty", op=str(path)) from error
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}", op=str(path)) from error
    cursor = _Cursor(data, path)
    if data[:4] != b"GGUF":
        raise cursor.fail(f"it starts with {data[:4]!r} instead of b'GGUF'")
    cursor.take(4, "magic")
    version = cursor.unpack("<I", "version")
    if version not in (2, 3):
        big_endian = version & 0xFFFF == 0
        raise UnsupportedError(
            f"{path} is {'big-endian' if big_endian else f'of GGUF version {version}'}: expected little-endian, "
            "version 2 or 3",
            op=str(path),
        )
    tensor_count = cursor.count("<Q", 24, "the number of tensors")
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count("<Q", 13, "the number of metadata entries")):
        key = cursor.text("a metadata key")
        if key in metadata:
            raise cursor.fail(f"metadata key {key!r} appears twice")
        metadata[key] = cursor.value(cursor.unpack("<I", f"type of {key!r}"), repr(key))
    table = [_table_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, not a power of two")
    begin = -(-cursor.offset // alignment) * alignment
    array = np.frombuffer(data, dtype=np.uint8)
    tensors: dict[str, GgufTensor] = {}
    for name, kind, shape, offset in table:
        if name in tensors:
            raise cursor.fail(f"tensor {name!r} appears twice")
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if not shape or shape[-1] % block:
            raise cursor.fail(f"tensor {name!r} of shape {list(shape)} is not made of {kind.name}'s blocks of {block}")
        size = math.prod(shape) // block * block_bytes
        if offset % alignment or begin + offset + size > len(data):
            raise cursor.fail(f"tensor {name!r} ({size} bytes at {begin + offset}) does not fit into the file")
        tensors[name] = GgufTensor(name, kind, shape, array[begin + offset : begin + offset + size])
    return GgufFile(metadata, tensors)


def _table_entry(cursor: _Cursor) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
    name = cursor.text("a tensor's name")
    dims = cursor.unpack("<I", f"rank of tensor {name!r}")
    if not 1 <= dims <= _MAX_DIMS:
        raise cursor.fail(f"tensor {name!r} has rank {dims}")
    shape = tuple(cursor.unpack("<Q", f"shape of tensor {name!r}") for _ in range(dims))[::-1]
    number = cursor.unpack("<I", f"type of tensor {name!r}")
    offset: int = cursor.unpack("<Q", f"offset of tensor {name!r}")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        raise UnsupportedError(f"tensor {name!r} of {cursor.path} has the unknown type {number}", op=name) from error
    return name, kind, shape, offset
