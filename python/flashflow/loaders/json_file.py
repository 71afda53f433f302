"""JSON files of models: untrusted, so bounded, and every failure names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flashflow.errors import DataLossError, NotFoundError, ResourceExhaustedError

__all__ = ["read_bounded", "read_json_object"]

_MAX_BYTES = 256 << 20  # the largest tokenizer.json files are some tens of MB


def read_bounded(path: Path, max_bytes: int = _MAX_BYTES) -> bytes:
    """The file's bytes. ResourceExhaustedError where it is larger than max_bytes."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ResourceExhaustedError(f"{path} has {size} bytes, more than the {max_bytes} allowed", op=str(path))
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}", op=str(path)) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file. DataLossError for anything else."""
    content = read_bounded(path)
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise DataLossError(f"{path} is not JSON: {error}", op=str(path)) from error
    if not isinstance(value, dict):
        raise DataLossError(f"{path} must hold a JSON object, found {type(value).__name__}", op=str(path))
    return value
