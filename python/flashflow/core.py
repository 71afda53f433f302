"""The C++ library, `flashflow._core`, with its log routed to the `flashflow` logger."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from flashflow.errors import FailedPreconditionError
from flashflow.log import log_from_core


@functools.cache
def core() -> Any:
    """The extension module.

    Raises:
        FailedPreconditionError: it is not there, or is of another Python.
    """
    try:
        module = importlib.import_module("flashflow._core")
    except ImportError as error:
        raise FailedPreconditionError(
            f"the extension module flashflow._core cannot be loaded: {error}",
            hint="run through Bazel (./bazelw run //python:generate), or install a wheel for this Python",
        ) from error
    module.set_log_handler(log_from_core)
    return module
