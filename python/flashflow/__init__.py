"""FlashFlow compiles GPT models into one portable file and runs it.

    from flashflow import LLM, SamplingParams
    print(LLM("smollm2-135m").generate("The sea is", SamplingParams(max_tokens=16))[0].text)

Importing this package loads nothing else: each name below is loaded when first used, and torch only when a model is
exported or trained.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashflow.errors import (
        DataLossError,
        FailedPreconditionError,
        FlashFlowError,
        InternalError,
        InvalidArgumentError,
        NotFoundError,
        ResourceExhaustedError,
        UnsupportedError,
    )
    from flashflow.llm import LLM, TokenStream
    from flashflow.outputs import RequestOutput, RequestTiming
    from flashflow.sampling import SamplingParams

__version__ = "0.1.0"

__all__ = [
    "DataLossError",
    "FailedPreconditionError",
    "FlashFlowError",
    "InternalError",
    "InvalidArgumentError",
    "LLM",
    "NotFoundError",
    "RequestOutput",
    "RequestTiming",
    "ResourceExhaustedError",
    "SamplingParams",
    "TokenStream",
    "UnsupportedError",
    "__version__",
]

_HOME = {
    "LLM": "llm",
    "RequestOutput": "outputs",
    "RequestTiming": "outputs",
    "SamplingParams": "sampling",
    "TokenStream": "llm",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flashflow' has no attribute {name!r}")
    value = getattr(importlib.import_module("flashflow." + _HOME.get(name, "errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
