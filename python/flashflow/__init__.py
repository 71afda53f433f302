"""FlashFlow compiles GPT models into one portable file and runs it.

    from flashflow import LLM, SamplingParams
    print(LLM("smollm2-135m").generate("The sea is", SamplingParams(max_tokens=16))[0].text)

Importing this package makes `torch.compile(model, backend="flashflow")` possible and loads nothing else: each name
below is loaded when first used, and torch only when a model is exported, compiled or trained.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flashflow import torch_entry_point

if TYPE_CHECKING:
    from flashflow.compiled_module import CompiledModule, compile
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
    from flashflow.plan import Plan
    from flashflow.roofline import Roofline, RooflineRow
    from flashflow.sampling import SamplingParams

__version__ = "0.1.0"

torch_entry_point.register(__version__)

__all__ = [
    "CompiledModule",
    "DataLossError",
    "FailedPreconditionError",
    "FlashFlowError",
    "InternalError",
    "InvalidArgumentError",
    "LLM",
    "NotFoundError",
    "Plan",
    "RequestOutput",
    "RequestTiming",
    "ResourceExhaustedError",
    "Roofline",
    "RooflineRow",
    "SamplingParams",
    "TokenStream",
    "UnsupportedError",
    "__version__",
    "compile",
]

_HOME = {
    "CompiledModule": "compiled_module",
    "LLM": "llm",
    "Plan": "plan",
    "RequestOutput": "outputs",
    "RequestTiming": "outputs",
    "Roofline": "roofline",
    "RooflineRow": "roofline",
    "SamplingParams": "sampling",
    "TokenStream": "llm",
    "compile": "compiled_module",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flashflow' has no attribute {name!r}")
    value = getattr(importlib.import_module("flashflow." + _HOME.get(name, "errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
