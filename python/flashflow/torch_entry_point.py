"""Makes torch.compile(..., backend="flashflow") known once flashflow is imported, without importing torch.

torch finds backends by the entry points "torch_dynamo_backends" of installed distributions. Where flashflow is imported
from its sources there is no distribution, so this module stands in for one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["register"]

_REGISTRY = "torch._dynamo.backends.registry"
_METADATA = "Metadata-Version: 2.1\nName: flashflow\nVersion: {version}\n"
_ENTRY_POINTS = "[torch_dynamo_backends]\nflashflow = flashflow.torch_backend:flashflow_backend\n"


def register(version: str) -> None:
    """Registers the backend with torch, now or when torch looks for backends."""
    registry = sys.modules.get(_REGISTRY)
    if registry is None:
        sys.meta_path.append(_Finder(version))
    elif "flashflow" not in registry._BACKENDS:  # torch may have looked for entry points already
        registry.register_backend(name="flashflow", compiler_fn=_backend)


def _backend(module: Any, example_inputs: Any) -> Callable[..., Any]:
    from flashflow.torch_backend import flashflow_backend

    return flashflow_backend(module, example_inputs)


class _Finder:
    """Shows importlib.metadata a distribution of this package; one that is installed is found before it."""

    def __init__(self, version: str) -> None:
        self.files = {"METADATA": _METADATA.format(version=version), "entry_points.txt": _ENTRY_POINTS}

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        return None

    def find_distributions(self, context: Any) -> Iterator[Any]:
        if context.name not in (None, "flashflow"):
            return
        from importlib.metadata import Distribution

        files = self.files

        class SourceDistribution(Distribution):
            def read_text(self, filename: str) -> str | None:
                return files.get(filename)

            def locate_file(self, path: Any) -> Any:
                return path

        yield SourceDistribution()
