"""Exports a module to graph.json (docs/graph_json.md) with torch.export.

The graph is torch.export's own, undecomposed: linear, layer_norm, rms_norm and scaled_dot_product_attention stay
whole. Ids, order and texts are deterministic and hold no path of the machine, so equal models give equal bytes.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind

from flashflow.errors import FlashFlowError, InvalidArgumentError, UnsupportedError
from flashflow.frontend.fx_json import (
    FORMAT,
    FORMAT_VERSION,
    NodeWriter,
    is_dropped,
    is_foreign,
    producer,
    short_path,
    unaliased,
)

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "ExportConfig",
    "Exported",
    "export",
    "export_graph",
    "exported_program",
    "graph_text",
]

_MAX_BATCH = 64

_Json = dict[str, Any]


class ExportConfig(Protocol):
    """What export_graph needs to know of a config; ModelConfig is one."""

    @property
    def context_length(self) -> int: ...

    def metadata(self) -> dict[str, int | float | str | bool]: ...


@dataclass(frozen=True)
class Exported:
    """graph is the graph.json object. constants are its weights that are no parameters, by name: buffers, such as
    rotary tables, and tensors that forward() makes of literals. Loaders provide the parameters; these come here."""

    graph: _Json
    constants: dict[str, Tensor]


def export(model: nn.Module, config: ExportConfig, name: str = "model") -> Exported:
    """Exports model.

    Args:
      model: in eval mode; called as model(input_ids, position_ids), both i64 [B, S], or as model(input_ids) if it takes
        no second argument and counts positions itself. Returns logits [B, S, vocab]. Its parameters are not read: they
        may be uninitialized.
      config: gives the longest sequence and the metadata to keep.
      name: of the graph.

    Raises:
      InvalidArgumentError: the module is in training mode, or does not take or return what is said above.
      UnsupportedError: the forward pass depends on its input's values, on sizes in a way that is not a polynomial of
        B and S, or uses types that FlashFlow has not; the message names the source line.
    """
    if model.training:
        raise InvalidArgumentError("the model is in training mode", op="model", hint="call model.eval() first")
    program = _export(model, config.context_length, _number_of_inputs(model))
    return _Writer(model, program, config, name).exported()


def export_graph(model: nn.Module, config: ExportConfig, name: str = "model") -> _Json:
    """The graph.json object alone: export(...).graph."""
    return export(model, config, name).graph


def graph_text(graph: _Json) -> str:
    """graph as JSON text; equal graphs give equal texts."""
    return json.dumps(graph, allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def _number_of_inputs(model: nn.Module) -> int:
    """2 for model(input_ids, position_ids), 1 for model(input_ids)."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(None, None)
        return 2
    except TypeError as error:
        with contextlib.suppress(TypeError):
            signature.bind(None)
            return 1
        raise InvalidArgumentError(
            f"the model cannot be called as model(input_ids, position_ids): {error}",
            op="forward",
            hint="wrap it in a module whose forward takes these two i64 [batch, sequence] tensors, or input_ids alone",
        ) from error


def _export(model: nn.Module, context_length: int, inputs: int) -> torch.export.ExportedProgram:
    if context_length < 2:
        raise UnsupportedError(f"context_length {context_length} is too short to export", op="context_length")
    batch = torch.export.Dim("B", min=1, max=_MAX_BATCH)
    sequence = torch.export.Dim("S", min=1, max=context_length)
    # Example sizes only have to differ from each other and from 0 and 1, which torch.export takes as special.
    rows, columns = (3, 2) if context_length == 2 else (2, 3)
    example = torch.zeros(rows, columns, dtype=torch.int64)
    examples = (example, example.clone())[:inputs]
    shapes = ({0: batch, 1: sequence}, {0: batch, 1: sequence})[:inputs]
    return exported_program(model, examples, {}, shapes)


def exported_program(
    module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], dynamic_shapes: Any
) -> torch.export.ExportedProgram:
    """torch.export's program of a module, composite operators whole: the way of every module into FlashFlow.

    Raises:
      UnsupportedError: torch.export cannot follow the module; the message names the line of its code.
    """
    try:
        # torch prints the unfinished graph to stderr where it fails; the error below says what there is to say.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            return torch.export.export(module, arguments, keywords, dynamic_shapes=dynamic_shapes, strict=False)
    except FlashFlowError:
        raise
    except Exception as error:  # torch.export raises whatever the model's code or its own layers raise
        raise _explain(error) from error


def _explain(error: Exception) -> FlashFlowError:
    """A typed error that names the model's own line, out of what torch.export raised."""
    source = ""
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not is_foreign(file) and Path(file) != Path(__file__):
            source = f"{short_path(file)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    kind = type(error).__name__
    text = str(error)
    at = f" at {source}" if source else ""
    first_line = text.strip().splitlines()[0] if text.strip() else kind
    if "DataDep" in kind or "data-dependent" in text or "Dynamic control flow" in text:
        return UnsupportedError(
            f"control flow depends on a tensor's values{at}: {first_line}",
            op=source,
            hint="compute both sides and choose with torch.where, or decide in __init__",
        )
    if "Constraints violated" in text or "specialized" in text or "ConstraintViolation" in kind:
        return UnsupportedError(
            f"the model fixes the batch or sequence size{at}: {' '.join(text.split())[:400]}",
            op=source,
            hint="take sizes from the inputs' shape instead of constants, and do not branch on them",
        )
    return UnsupportedError(
        f"torch.export failed{at}: {kind}: {first_line}",
        op=source,
        hint="the module must be exportable with torch.export(strict=False)",
    )


class _Writer:
    def __init__(
        self, model: nn.Module, program: torch.export.ExportedProgram, config: ExportConfig, name: str
    ) -> None:
        self.model, self.program, self.config, self.name = model, program, config, name
        self.symbols: dict[str, str] = {}
        self.nodes = NodeWriter(self.symbols)
        self.canonical = _canonical_names(model)

    def exported(self) -> Exported:
        signature = self.program.graph_signature
        nodes = list(self.program.graph.nodes)
        by_name = {node.name: node for node in nodes}
        inputs = [spec for spec in signature.input_specs if spec.kind == InputKind.USER_INPUT]
        placeholders = [by_name[spec.arg.name] for spec in inputs]
        self._bind_symbols(placeholders)
        weights = []
        constants: dict[str, Tensor] = {}
        for spec in signature.input_specs:
            if spec.kind != InputKind.USER_INPUT:
                if not by_name[spec.arg.name].users:
                    continue
                weight = self._weight(by_name[spec.arg.name], spec)
                weights.append(weight)
                if spec.kind != InputKind.PARAMETER:
                    constants[weight["name"]] = self._value(spec.target)
        body = [self.nodes.node(node) for node in nodes if node.op == "call_function" and not is_dropped(node)]
        outputs = [spec for spec in signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
        if len(outputs) != 1 or len(outputs) != len(signature.output_specs):
            raise InvalidArgumentError(
                f"the model must return one tensor (logits) and change no buffer; it has {len(signature.output_specs)} "
                "results",
                op="forward",
            )
        output = unaliased(by_name[outputs[0].arg.name])
        self._check_output(output)
        graph = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "producer": producer(),
            "name": self.name,
            "metadata": dict(sorted(self.config.metadata().items())),
            "symbols": [
                {"name": "B", "min": 1, "max": _MAX_BATCH},
                {"name": "S", "min": 1, "max": self.config.context_length},
            ],
            "inputs": [
                {"id": node.name, "name": name, **self.nodes.tensor_type(node.meta["val"], node)}
                for node, name in zip(placeholders, ("input_ids", "position_ids"), strict=False)
            ],
            "weights": weights,
            "nodes": body,
            "outputs": [{"id": output.name, "name": "logits"}],
        }
        return Exported(graph, constants)

    def _value(self, target: str) -> Tensor:
        values = self.program.constants if target in self.program.constants else self.program.state_dict
        tensor = values[target]
        if not isinstance(tensor, Tensor):
            raise UnsupportedError(f"the model carries {target!r}, a {type(tensor).__name__}", op=target)
        return tensor.detach()

    def _bind_symbols(self, placeholders: Sequence[torch.fx.Node]) -> None:
        """Names torch.export's symbols (s27, s77, ...) B and S."""
        for node in placeholders:
            for size, name in zip(node.meta["val"].shape, ("B", "S"), strict=True):
                if isinstance(size, int):
                    raise UnsupportedError(
                        f"the model fixes {'the batch' if name == 'B' else 'the sequence'} to {size}",
                        op=node.name,
                        hint="take sizes from the inputs' shape instead of constants, and do not branch on them",
                    )
                self.symbols[str(size.node.expr)] = name

    def _weight(self, node: torch.fx.Node, spec: Any) -> _Json:
        if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            raise UnsupportedError(f"the model has an input of kind {spec.kind.name}", op=node.name)
        name = self.canonical.get(spec.target, spec.target)
        return {"id": node.name, "name": name, **self.nodes.tensor_type(node.meta["val"], node)}

    def _check_output(self, node: torch.fx.Node) -> None:
        result = self.nodes.tensor_type(node.meta["val"], node)
        if result["dtype"] != "f32" or len(result["shape"]) != 3 or result["shape"][:2] != ["B", "S"]:
            raise InvalidArgumentError(
                f"the model must return f32 logits of shape [B, S, vocabulary], got {result['dtype']} "
                f"{result['shape']}",
                op="forward",
            )


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor, so that tied weights share one."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    named: Iterable[tuple[str, Tensor]] = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in named:
        names[name] = first.setdefault(id(tensor), name)
    return names
