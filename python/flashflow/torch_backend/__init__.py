"""torch.compile(model, backend="flashflow"): docs/howto/torch_compile.md."""

from flashflow.torch_backend.backend import FlashFlowWarning, flashflow_backend
from flashflow.torch_backend.runner import Counters, counters

__all__ = ["Counters", "FlashFlowWarning", "counters", "flashflow_backend"]
