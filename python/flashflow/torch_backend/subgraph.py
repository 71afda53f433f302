"""A piece of an ATen graph as graph.json, and how its inputs, weights and sizes are found among a call's arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from flashflow.frontend.fx_json import FORMAT, FORMAT_VERSION, NodeWriter, is_dropped, producer, unaliased

__all__ = ["SizeSource", "Subgraph"]

_LARGEST_SIZE = 2**31 - 1


@dataclass(frozen=True)
class SizeSource:
    """A symbol's value: (size - offset) / factor, where size is argument `argument`, or its dim `dim`."""

    argument: int
    dim: int | None
    factor: int
    offset: int

    def value(self, arguments: Sequence[Any]) -> int:
        argument = arguments[self.argument]
        size = argument if self.dim is None else argument.shape[self.dim]
        return (int(size) - self.offset) // self.factor


@dataclass
class Subgraph:
    """What Python keeps of a graph.json that it made.

    text: the graph; equal computations give equal texts, whatever their nodes were called.
    inputs, weights: the arguments that are its inputs, in order, and its weights, by name.
    sizes: a source for each symbol, in order.
    permutations: of each output that torch lays out otherwise than row-major, its axes from the outermost on; the graph
      returns it permuted so.
    """

    text: str = ""
    inputs: list[int] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    sizes: list[SizeSource] = field(default_factory=list)
    permutations: list[tuple[int, ...] | None] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        nodes: Sequence[fx.Node],
        arguments: Sequence[fx.Node],
        outputs: Sequence[fx.Node],
        is_weight: Callable[[fx.Node], bool],
        ranges: Mapping[sympy.Symbol, Any],
        *,
        locations: bool = False,
    ) -> Subgraph:
        """Writes `nodes`, whose operands are among them and among `arguments`.

        Args:
            nodes: calls of ATen operators and getitem, in order, with their fake values in meta["val"].
            arguments: what the graph is called with: tensors and sizes.
            outputs: tensors among the nodes.
            is_weight: of an argument; weights have constant shapes.
            ranges: the ranges of torch's symbols.
            locations: whether entries keep the model's module and source line. Without, equal layers are equal.

        Raises:
            UnsupportedError: a dtype, a size or an argument that graph.json has no form for.
        """
        return _Builder(arguments, is_weight, ranges, locations).build(nodes, outputs)


class _Builder:
    def __init__(
        self,
        arguments: Sequence[fx.Node],
        is_weight: Callable[[fx.Node], bool],
        ranges: Mapping[sympy.Symbol, Any],
        locations: bool,
    ) -> None:
        self.arguments, self.is_weight, self.ranges, self.locations = arguments, is_weight, ranges, locations
        self.ids: dict[str, str] = {}  # node -> its id in the graph
        self.symbols: dict[str, str] = {}  # torch's symbol -> its name in the graph
        self.writer = NodeWriter(self.symbols)
        self.graph = Subgraph()
        self.declared: list[dict[str, Any]] = []

    def build(self, nodes: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> Subgraph:
        calls = [node for node in nodes if not is_dropped(node)]
        operands = [unaliased(operand) for node in calls for operand in node.all_input_nodes]
        operands += [unaliased(output) for output in outputs]
        self._bind_symbols([*operands, *calls])
        used = {node.name for node in operands}
        inputs: list[dict[str, Any]] = []
        weights: list[dict[str, Any]] = []
        for i, node in enumerate(self.arguments):
            key = unaliased(node).name  # under which calls refer to it
            if not isinstance(node.meta.get("val"), Tensor) or key not in used:
                continue
            weight = self.is_weight(node)
            name = f"w{len(weights)}" if weight else f"x{len(inputs)}"
            self.ids[key] = name
            (weights if weight else inputs).append(
                {"id": name, "name": name, **self.writer.tensor_type(node.meta["val"], node)}
            )
            if weight:
                self.graph.weights[name] = i
            else:
                self.graph.inputs.append(i)
        body = [self._call(node) for node in calls]
        results = [self._output(node, body) for node in outputs]
        self.graph.text = json.dumps(
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "producer": producer(),
                "name": "graph",
                "metadata": {},
                "symbols": self.declared,
                "inputs": inputs,
                "weights": weights,
                "nodes": body,
                "outputs": results,
            },
            allow_nan=False,
        )
        return self.graph

    def _bind_symbols(self, nodes: Sequence[fx.Node]) -> None:
        """Finds a source for every symbol that occurs in the sizes of `nodes`."""
        sources: dict[sympy.Symbol, SizeSource] = {}
        for i, node in enumerate(self.arguments):
            value = node.meta.get("val")
            sizes: list[tuple[int | None, Any]] = [(None, value)]
            if isinstance(value, Tensor):
                sizes = [(dim, value.shape[dim]) for dim in range(value.dim())]
            for dim, size in sizes:
                source = _solve(size.node.expr) if isinstance(size, torch.SymInt) else None
                if source is not None:
                    symbol, factor, offset = source
                    if symbol not in sources or factor == 1 and offset == 0 and sources[symbol].dim is not None:
                        sources[symbol] = SizeSource(i, dim, factor, offset)
        found: set[sympy.Symbol] = set()
        for node in nodes:
            found |= _symbols_of(node.meta.get("val"))
        for symbol in sorted(found, key=str):
            if symbol not in sources:
                continue  # where a size needs it, the writer refuses it by name
            name = f"s{len(self.symbols)}"
            self.symbols[str(symbol)] = name
            self.graph.sizes.append(sources[symbol])
            bounds = self.ranges.get(symbol)
            self.declared.append(
                {"name": name, "min": _bound(bounds, "lower", 0), "max": _bound(bounds, "upper", _LARGEST_SIZE)}
            )

    def _call(self, node: fx.Node) -> dict[str, Any]:
        entry = self.writer.node(node)
        entry["id"] = self.ids[node.name] = f"n{len(self.ids)}"
        if not self.locations:
            entry["module"] = entry["source"] = ""
        for key in ("args", "kwargs"):
            entry[key] = self._renamed(entry[key])
        return entry

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._renamed(part) for part in value]
        if isinstance(value, dict):
            if "ref" in value:
                return {"ref": self.ids[value["ref"]]}
            return {key: self._renamed(part) for key, part in value.items()}
        return value

    def _output(self, node: fx.Node, body: list[dict[str, Any]]) -> dict[str, Any]:
        value = node.meta["val"]
        name = f"y{len(self.graph.permutations)}"
        identity = self.ids[unaliased(node).name]
        permutation = _outermost_first(value)
        self.graph.permutations.append(permutation)
        if permutation is not None:
            kind = self.writer.tensor_type(value, node)
            body.append(
                {
                    "id": name,
                    "target": "aten.permute.default",
                    "args": [{"ref": identity}, list(permutation)],
                    "kwargs": {},
                    "dtype": kind["dtype"],
                    "shape": [kind["shape"][axis] for axis in permutation],
                    "module": "",
                    "source": "",
                }
            )
            identity = name
        return {"id": identity, "name": name}


def _solve(expression: sympy.Expr) -> tuple[sympy.Symbol, int, int] | None:
    """(symbol, factor, offset) of a size factor * symbol + offset, None if it is no such."""
    symbols = expression.free_symbols
    if len(symbols) != 1:
        return None
    (symbol,) = symbols
    polynomial = expression.as_poly(symbol)
    if polynomial is None or polynomial.degree() != 1:
        return None
    factor, offset = polynomial.all_coeffs()
    if not (factor.is_integer and offset.is_integer and factor > 0):
        return None
    return symbol, int(factor), int(offset)


def _symbols_of(value: Any) -> set[sympy.Symbol]:
    if isinstance(value, torch.SymInt):
        return set(value.node.expr.free_symbols)
    if isinstance(value, Tensor):
        return set().union(*(_symbols_of(size) for size in value.shape))
    if isinstance(value, list | tuple):
        return set().union(*(_symbols_of(part) for part in value))
    return set()


def _bound(bounds: Any, end: str, otherwise: int) -> int:
    value = getattr(bounds, end, None)
    return int(value) if isinstance(value, sympy.Integer | int) and 0 <= value <= _LARGEST_SIZE else otherwise


def _hint(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    return size.node.hint if size.node.has_hint() else 1


def _outermost_first(value: Tensor) -> tuple[int, ...] | None:
    """The axes by falling stride, where the tensor is dense but not row-major."""
    strides = [_hint(stride) for stride in value.stride()]
    sizes = [_hint(size) for size in value.shape]
    order = sorted(range(len(sizes)), key=lambda axis: (-strides[axis], axis))
    wide = [axis for axis in order if sizes[axis] != 1]
    if wide == sorted(wide):
        return None
    step = 1
    for axis in reversed(wide):
        if strides[axis] != step:
            return None
        step *= sizes[axis]
    return tuple(order)
