"""From a model as read from disk to an engine file. The one step that needs torch, for the export."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashflow.core import core
from flashflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from flashflow.frontend.export import Exported
    from flashflow.loaders.loaded_model import LoadedModel
    from flashflow.loaders.weight import LazyWeight

Progress = Callable[[str, float | None], None]  # a stage, and what share of it is done, if known

# Options of the compiler. What of a model of codes is no product of codes is narrow: it is made for speed.
_OPTIONS = {
    "float32": {"dtype": "f32"},
    "bfloat16": {"dtype": "bf16"},
    "int8": {"dtype": "bf16", "quantize": "int8"},
    "int4": {"dtype": "bf16", "quantize": "int4"},
}
_KV_OPTIONS: dict[str, dict[str, str]] = {"auto": {}, "int8": {"kv_dtype": "int8"}}


def export_model(loaded: LoadedModel, report: Progress) -> Exported:
    """The model's graph, which depends on its shape alone. UnsupportedError as build_engine."""
    report("exporting", None)
    from flashflow.frontend.export import export
    from flashflow.models.build import build_model

    return export(build_model(loaded.config), loaded.config, loaded.name)


def build_engine(
    loaded: LoadedModel,
    path: Path,
    dtype: str,
    report: Progress,
    keep_float: Sequence[str] = (),
    kv_dtype: str = "auto",
    exported: Exported | None = None,
) -> None:
    """Exports and compiles a model.

    Args:
        loaded: the model; its weights are read one by one.
        path: of the engine, which appears there whole or not at all.
        dtype: of weights and KV cache, "float32" or "bfloat16"; "int8": weights of layers are codes, and the KV cache
            is of bfloat16. "int4": of layers 4-bit codes, of the head and the table of tokens 8-bit ones.
        report: told what is going on.
        keep_float: of an engine of codes, shell patterns of weights that stay in bfloat16, such as "layers.0.*".
        kv_dtype: "int8": the KV cache is of int8 codes, with a scale for each head and token. "auto": as dtype says.
        exported: of export_model, for several engines of one model; else it is exported here.

    Raises:
        InvalidArgumentError: a pattern matches no weight of a layer, or the engine has no codes.
        UnsupportedError: the model has something that the compiler does not know; the node and its source are named.
        DataLossError: a weight is damaged.
        ResourceExhaustedError: the disk is full.
    """
    kept = _kept_in_floats(keep_float, loaded.weights, dtype)
    exported = exported or export_model(loaded, report)
    metadata = {**loaded.graph_metadata(), **{f"precision.{name}": "float" for name in kept}}
    graph = {**exported.graph, "metadata": {**exported.graph["metadata"], **metadata}}
    report("compiling", None)
    core().build_engine(
        str(path),
        json.dumps(graph),
        _Weights(loaded.weights, exported.constants),
        json.dumps(loaded.engine_config()),
        loaded.tokenizer_json or b"",
        {**_OPTIONS[dtype], **_KV_OPTIONS[kv_dtype]},
        lambda done, total: report("writing", done / max(1, total)),
    )


def _kept_in_floats(patterns: Sequence[str], weights: Mapping[str, LazyWeight], dtype: str) -> list[str]:
    """The matrices that the patterns name."""
    if patterns and "quantize" not in _OPTIONS[dtype]:
        raise InvalidArgumentError(f"an engine of {dtype} has no codes: all of it stays in floats", op="keep_float")
    matrices = [name for name, weight in weights.items() if len(weight.shape) == 2]
    for pattern in patterns:
        if not fnmatch.filter(matrices, pattern):
            raise InvalidArgumentError(
                f"no weight of a layer is named {pattern!r}", op="keep_float", hint=f"the first is {min(matrices)}"
            )
    return [name for name in matrices if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


class _Weights:
    """Parameters from the model's files, tables such as rotary ones from the export; read when asked for."""

    def __init__(self, parameters: Mapping[str, LazyWeight], constants: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._constants = constants

    def __contains__(self, name: object) -> bool:
        return name in self._parameters or name in self._constants

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        if name in self._parameters:
            return self._parameters[name].read()
        array: npt.NDArray[Any] = self._constants[name].detach().contiguous().numpy()
        return array
