"""Nodes of a torch.fx graph as the entries of graph.json (docs/graph_json.md)."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor

import flashflow.errors
from flashflow.errors import UnsupportedError

__all__ = [
    "DTYPES",
    "FORMAT",
    "FORMAT_VERSION",
    "NodeWriter",
    "is_dropped",
    "is_foreign",
    "producer",
    "short_path",
    "unaliased",
]

FORMAT = "flashflow.graph"
FORMAT_VERSION = 1
_PRODUCER_VERSION = "0.1.0"

DTYPES: dict[torch.dtype, str] = {
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


def producer() -> dict[str, str]:
    """The versions that write a graph."""
    return {"flashflow": _PRODUCER_VERSION, "torch": torch.__version__.partition("+")[0]}


@dataclass(frozen=True)
class _Location:
    module: str
    source: str


class NodeWriter:
    """Writes nodes whose sizes are polynomials of `symbols`: torch's symbol (s27, ...) -> its name in the graph.

    Nodes carry their fake values in meta["val"]. Errors are UnsupportedError and name the node and its source line.
    """

    def __init__(self, symbols: Mapping[str, str]) -> None:
        self.symbols = symbols

    def node(self, node: torch.fx.Node) -> dict[str, Any]:
        """The entry of a call."""
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise self._unsupported(node, "changes a tensor in place", hint="write x = x + y instead of x += y")
        location = _location(node)
        entry: dict[str, Any] = {
            "id": node.name,
            "target": "getitem" if node.target is operator.getitem else _target_name(node.target),
            "args": [self._argument(argument, node) for argument in node.args],
            "kwargs": {key: self._argument(value, node) for key, value in sorted(node.kwargs.items())},
        }
        value = node.meta.get("val")
        if isinstance(value, list | tuple):
            entry["results"] = [self.tensor_type(part, node) for part in value]
        else:
            entry.update(self.tensor_type(value, node))
        entry["module"] = location.module
        entry["source"] = location.source
        return entry

    def tensor_type(self, value: object, node: torch.fx.Node) -> dict[str, Any]:
        """dtype and shape of one of the node's values."""
        if not isinstance(value, Tensor):
            raise self._unsupported(node, f"gives {type(value).__name__}, not a tensor")
        if value.dtype not in DTYPES:
            raise self._unsupported(node, f"gives {value.dtype}: expected one of {', '.join(DTYPES.values())}")
        return {"dtype": DTYPES[value.dtype], "shape": [self.dim(size, node) for size in value.shape]}

    def dim(self, size: int | torch.SymInt, node: torch.fx.Node) -> int | str:
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
                f"has a size {self._rename(str(expression))} that is not a polynomial of {self._names()}"
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

    def _names(self) -> str:
        return " and ".join(sorted(set(self.symbols.values()))) or "anything"

    def _rename(self, text: str) -> str:
        return re.sub(r"\b\w+\b", lambda match: self.symbols.get(match[0], match[0]), text)

    def _argument(self, value: object, node: torch.fx.Node) -> Any:
        if isinstance(value, torch.fx.Node):
            meaning = value.meta.get("val")
            if isinstance(meaning, torch.SymInt):
                return {"dim": str(self.dim(meaning, node))}
            if isinstance(meaning, int) and is_dropped(value):
                return meaning
            return {"ref": unaliased(value).name}
        if isinstance(value, torch.SymInt):
            return {"dim": str(self.dim(value, node))}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return [self._argument(part, node) for part in value]
        if isinstance(value, torch.dtype):
            return {"dtype": DTYPES[value]} if value in DTYPES else {"other": str(value)}
        return {"other": str(value)}

    def _unsupported(self, node: torch.fx.Node, problem: str, hint: str = "") -> UnsupportedError:
        location = _location(node)
        where = f" in module {location.module or '(root)'} at {location.source}" if location.source else ""
        return UnsupportedError(f"node {node.name} ({node.target}){where} {problem}", op=node.name, hint=hint)


def _has_integer_terms(polynomial: Any) -> bool:
    if isinstance(polynomial, sympy.Expr):
        return bool(polynomial.is_integer and polynomial.is_number)
    return all(coefficient.is_integer for coefficient in polynomial.coeffs())


def is_dropped(node: torch.fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if isinstance(node.meta.get("val"), torch.SymInt | torch.SymBool | torch.SymFloat | int | bool | float):
        return True
    return str(node.target) in _ALIASES or bool(_DROPPED.search(str(node.target)))


def unaliased(node: torch.fx.Node) -> torch.fx.Node:
    while str(node.target) in _ALIASES and isinstance(node.args[0], torch.fx.Node):
        node = node.args[0]
    return node


def _target_name(target: object) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH_ROOT = str(Path(torch.__file__).parent)
_PACKAGE_ROOT = Path(flashflow.errors.__file__).parent


def is_foreign(file: str) -> bool:
    """Whether a source file is torch's or Python's own, not the model's."""
    return file.startswith((_TORCH_ROOT, "<")) or file.startswith("torch/") or "/lib/python3" in file


def short_path(file: str) -> str:
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
    frames = [(file, line) for file, line in _FRAME.findall(node.meta.get("stack_trace") or "") if not is_foreign(file)]
    source = f"{short_path(frames[-1][0])}:{frames[-1][1]}" if frames else ""
    return _Location(module, source)
