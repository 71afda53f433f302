"""Exports a module to graph.json (docs/graph_json.md) with torch.export.

The graph is torch.export's own, undecomposed: linear, layer_norm, rms_norm and scaled_dot_product_attention stay
whole. Ids, order and texts are deterministic and hold no path of the machine, so equal models give equal bytes.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import math
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sympy
import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind

import flashflow.errors
from flashflow.errors import FlashFlowError, InvalidArgumentError, UnsupportedError

__all__ = ["FORMAT", "FORMAT_VERSION", "ExportConfig", "Exported", "export", "export_graph", "graph_text"]

FORMAT = "flashflow.graph"
FORMAT_VERSION = 1
_PRODUCER_VERSION = "0.1.0"
_MAX_BATCH = 64

_DTYPES: dict[torch.dtype, str] = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "bool",
}

# Calls that only check something; sizes become texts where they are used.
_DROPPED = re.compile(r"^aten\.(sym_|_assert)")
# The same value under another name.
_ALIASES = frozenset(["aten.detach.default", "aten.detach_.default", "aten.lift_fresh_copy.default"])

_Json = dict[str, Any]


class ExportConfig(Protocol):
    """What export_graph needs to know of a config; ModelConfig is one."""

    @property
    def context_length(self) -> int: ...

    def metadata(self) -> dict[str, int | float | str | bool]: ...


@dataclass(frozen=True)
class _Location:
    module: str
    source: str


@dataclass(frozen=True)
class Exported:
    """graph is the graph.json object. constants are its weights that are no parameters, by name: buffers, such as
    rotary tables, and tensors that forward() makes of literals. Loaders provide the parameters; these come here."""

    graph: _Json
    constants: dict[str, Tensor]


def export(model: nn.Module, config: ExportConfig, name: str = "model") -> Exported:
    """Exports model.

    Args:
      model: in eval mode; called as model(input_ids, position_ids), both i64 [B, S], and returns logits [B, S, vocab].
        Its parameters are not read: they may be uninitialized.
      config: gives the longest sequence and the metadata to keep.
      name: of the graph.

    Raises:
      InvalidArgumentError: the module is in training mode, or does not take or return what is said above.
      UnsupportedError: the forward pass depends on its input's values, on sizes in a way that is not a polynomial of
        B and S, or uses types that FlashFlow has not; the message names the source line.
    """
    if model.training:
        raise InvalidArgumentError("the model is in training mode", op="model", hint="call model.eval() first")
    try:
        inspect.signature(model.forward).bind(None, None)
    except TypeError as error:
        raise InvalidArgumentError(
            f"the model cannot be called as model(input_ids, position_ids): {error}",
            op="forward",
            hint="wrap it in a module whose forward takes these two i64 [batch, sequence] tensors",
        ) from error
    program = _export(model, config.context_length)
    return _Writer(model, program, config, name).exported()


def export_graph(model: nn.Module, config: ExportConfig, name: str = "model") -> _Json:
    """The graph.json object alone: export(...).graph."""
    return export(model, config, name).graph


def graph_text(graph: _Json) -> str:
    """graph as JSON text; equal graphs give equal texts."""
    return json.dumps(graph, allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def _export(model: nn.Module, context_length: int) -> torch.export.ExportedProgram:
    if context_length < 2:
        raise UnsupportedError(f"context_length {context_length} is too short to export", op="context_length")
    batch = torch.export.Dim("B", min=1, max=_MAX_BATCH)
    sequence = torch.export.Dim("S", min=1, max=context_length)
    # Example sizes only have to differ from each other and from 0 and 1, which torch.export takes as special.
    rows, columns = (3, 2) if context_length == 2 else (2, 3)
    example = torch.zeros(rows, columns, dtype=torch.int64)
    shapes = ({0: batch, 1: sequence}, {0: batch, 1: sequence})
    try:
        # torch prints the unfinished graph to stderr where it fails; the error below says what there is to say.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            return torch.export.export(model, (example, example.clone()), dynamic_shapes=shapes, strict=False)
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
        if not _is_foreign(file) and Path(file) != Path(__file__):
            source = f"{_short_path(file)}:{traceback.tb_lineno}"
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
        body = [self._node(node) for node in nodes if node.op == "call_function" and not _is_dropped(node)]
        outputs = [spec for spec in signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
        if len(outputs) != 1 or len(outputs) != len(signature.output_specs):
            raise InvalidArgumentError(
                f"the model must return one tensor (logits) and change no buffer; it has {len(signature.output_specs)} "
                "results",
                op="forward",
            )
        output = _unaliased(by_name[outputs[0].arg.name])
        self._check_output(output)
        graph = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "producer": {"flashflow": _PRODUCER_VERSION, "torch": torch.__version__.partition("+")[0]},
            "name": self.name,
            "metadata": dict(sorted(self.config.metadata().items())),
            "symbols": [
                {"name": "B", "min": 1, "max": _MAX_BATCH},
                {"name": "S", "min": 1, "max": self.config.context_length},
            ],
            "inputs": [
                {"id": node.name, "name": name, **self._type(node.meta["val"], node)}
                for node, name in zip(placeholders, ("input_ids", "position_ids"), strict=True)
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
        return {"id": node.name, "name": name, **self._type(node.meta["val"], node)}

    def _node(self, node: torch.fx.Node) -> _Json:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise self._unsupported(node, "changes a tensor in place", hint="write x = x + y instead of x += y")
        location = _location(node)
        entry: _Json = {
            "id": node.name,
            "target": "getitem" if node.target is operator.getitem else _target_name(node.target),
            "args": [self._argument(argument, node) for argument in node.args],
            "kwargs": {key: self._argument(value, node) for key, value in sorted(node.kwargs.items())},
        }
        value = node.meta.get("val")
        if isinstance(value, list | tuple):
            entry["results"] = [self._type(part, node) for part in value]
        else:
            entry.update(self._type(value, node))
        entry["module"] = location.module
        entry["source"] = location.source
        return entry

    def _type(self, value: object, node: torch.fx.Node) -> _Json:
        if not isinstance(value, Tensor):
            raise self._unsupported(node, f"gives {type(value).__name__}, not a tensor")
        if value.dtype not in _DTYPES:
            raise self._unsupported(node, f"gives {value.dtype}: expected one of {', '.join(_DTYPES.values())}")
        return {"dtype": _DTYPES[value.dtype], "shape": [self._dim(size, node) for size in value.shape]}

    def _dim(self, size: int | torch.SymInt, node: torch.fx.Node) -> int | str:
        if isinstance(size, int):
            return size
        expression = self._polynomial(size.node.expr, node)
        return int(expression) if expression.isdecimal() else expression

    def _polynomial(self, expression: sympy.Expr, node: torch.fx.Node) -> str:
        """The dimension as a sum of products of integers, B and S."""
        symbols = sorted(expression.free_symbols, key=str)
        unknown = [str(symbol) for symbol in symbols if str(symbol) not in self.symbols]
        polynomial = None if unknown else expression.as_poly(*symbols) if symbols else expression
        if polynomial is None or not _has_integer_terms(polynomial):
            raise self._unsupported(
                node,
                f"has a size {self._rename(str(expression))} that is not a polynomial of B and S"
                + (f" (it depends on the values of a tensor: {', '.join(unknown)})" if unknown else ""),
            )
        if not symbols:
            return str(polynomial)
        names = [self.symbols[str(symbol)] for symbol in symbols]
        terms = []
        for powers, coefficient in polynomial.terms():
            factors = [name for name, power in sorted(zip(names, powers, strict=True)) for _ in range(power)]
            sign = "-" if coefficient < 0 else "+"
            magnitude = [str(abs(int(coefficient)))] if abs(int(coefficient)) != 1 or not factors else []
            terms.append((sign, "*".join(magnitude + factors)))
        text = ("-" if terms[0][0] == "-" else "") + terms[0][1]
        return text + "".join(f" {sign} {term}" for sign, term in terms[1:])

    def _rename(self, text: str) -> str:
        return re.sub(r"\b\w+\b", lambda match: self.symbols.get(match[0], match[0]), text)

    def _argument(self, value: object, node: torch.fx.Node) -> Any:
        if isinstance(value, torch.fx.Node):
            meaning = value.meta.get("val")
            if isinstance(meaning, torch.SymInt):
                return {"dim": str(self._dim(meaning, node))}
            if isinstance(meaning, int) and _is_dropped(value):
                return meaning
            return {"ref": _unaliased(value).name}
        if isinstance(value, torch.SymInt):
            return {"dim": str(self._dim(value, node))}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return [self._argument(part, node) for part in value]
        if isinstance(value, torch.dtype):
            return {"dtype": _DTYPES[value]} if value in _DTYPES else {"other": str(value)}
        return {"other": str(value)}

    def _unsupported(self, node: torch.fx.Node, problem: str, hint: str = "") -> UnsupportedError:
        location = _location(node)
        where = f" in module {location.module or '(root)'} at {location.source}" if location.source else ""
        return UnsupportedError(f"node {node.name} ({node.target}){where} {problem}", op=node.name, hint=hint)

    def _check_output(self, node: torch.fx.Node) -> None:
        result = self._type(node.meta["val"], node)
        if result["dtype"] != "f32" or len(result["shape"]) != 3 or result["shape"][:2] != ["B", "S"]:
            raise InvalidArgumentError(
                f"the model must return f32 logits of shape [B, S, vocabulary], got {result['dtype']} "
                f"{result['shape']}",
                op="forward",
            )


def _has_integer_terms(polynomial: Any) -> bool:
    if isinstance(polynomial, sympy.Expr):
        return bool(polynomial.is_integer and polynomial.is_number)
    return all(coefficient.is_integer for coefficient in polynomial.coeffs())


def _is_dropped(node: torch.fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if isinstance(node.meta.get("val"), torch.SymInt | torch.SymBool | torch.SymFloat | int | bool | float):
        return True
    return str(node.target) in _ALIASES or bool(_DROPPED.search(str(node.target)))


def _unaliased(node: torch.fx.Node) -> torch.fx.Node:
    while str(node.target) in _ALIASES and isinstance(node.args[0], torch.fx.Node):
        node = node.args[0]
    return node


def _target_name(target: object) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


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


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH_ROOT = str(Path(torch.__file__).parent)
_PACKAGE_ROOT = Path(flashflow.errors.__file__).parent


def _is_foreign(file: str) -> bool:
    """Whether a source file is torch's or Python's own, not the model's."""
    return file.startswith((_TORCH_ROOT, "<")) or file.startswith("torch/") or "/lib/python3" in file


def _short_path(file: str) -> str:
    """A path that is the same on every machine: below python/flashflow, below the working folder, or the bare name."""
    path = Path(file)
    for root, prefix in ((_PACKAGE_ROOT, Path("python/flashflow")), (Path.cwd(), Path())):
        if path.is_relative_to(root):
            return str(prefix / path.relative_to(root))
    return path.name


def _location(node: torch.fx.Node) -> _Location:
    module = ""
    stack = node.meta.get("nn_module_stack") or {}
    for entry in stack.values():
        if isinstance(entry, tuple) and isinstance(entry[0], str):
            module = entry[0]
    frames = [
        (file, line) for file, line in _FRAME.findall(node.meta.get("stack_trace") or "") if not _is_foreign(file)
    ]
    source = f"{_short_path(frames[-1][0])}:{frames[-1][1]}" if frames else ""
    return _Location(module, source)
