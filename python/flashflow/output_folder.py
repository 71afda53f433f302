"""Folders that results go to, made before the work and not after it."""

from __future__ import annotations

import os
from pathlib import Path

from flashflow.errors import InvalidArgumentError


def make_output_folder(folder: Path, flag: str) -> None:
    """Makes a folder, and those above it, where they are missing.

    Raises:
        InvalidArgumentError: no file can be made there; `flag` is what named it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"the folder {folder} cannot be made: {error.strerror}", op=flag) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidArgumentError(f"no file can be made in the folder {folder}: Permission denied", op=flag)
