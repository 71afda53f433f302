"""Which nodes of an ATen graph run compiled, and their fusion into pieces.

A piece is a run of neighbors in program order, so that what stays in eager mode, in-place changes above all, happens
between the same calls as before.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.fx.passes.utils.fuser_utils import erase_nodes, fuse_as_graphmodule

from flashflow.core import core
from flashflow.errors import FlashFlowError
from flashflow.torch_backend.runner import device_name
from flashflow.torch_backend.subgraph import Subgraph

__all__ = ["Pieces", "aliases"]

_reasons: dict[tuple[str, str], str] = {}  # the graph of one call, a device -> why it does not compile, "" if it does


class Pieces:
    """Fuses the supported runs of nodes of `module`, in place.

    Args:
        module: calls of ATen operators, their fake values in meta["val"].
        is_weight: of a placeholder of the module: whether it is a parameter or a buffer of constant shape.
        ranges: the ranges of torch's symbols.
        refuse: told the name of each operator that stays in eager mode and why.
        device: where the pieces run; calls that touch tensors elsewhere are in none.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        is_weight: Callable[[fx.Node], bool],
        ranges: Mapping[sympy.Symbol, Any],
        refuse: Callable[[str, str], None],
        device: torch.device,
    ) -> None:
        self.module, self.ranges, self.refuse, self.device = module, ranges, refuse, device
        self.guarded = _guarded_storages(module.graph)
        self.sizes = [
            node for node in module.graph.find_nodes(op="placeholder") if isinstance(node.meta.get("val"), torch.SymInt)
        ]
        self.weight_names = {node.name for node in module.graph.find_nodes(op="placeholder") if is_weight(node)}

    def fuse(self) -> list[tuple[fx.Node, fx.GraphModule]]:
        """The calls of the fused pieces in the graph, each of which returns a tuple, and their graphs."""
        _gather_results(self.module.graph)
        pieces = []
        for number, run in enumerate(list(self._runs())):
            pieces.append(self._fuse_run(run, f"flashflow_{number}"))
        self.module.graph.lint()
        self.module.recompile()
        return pieces

    def subgraph(self, piece: fx.GraphModule) -> Subgraph:
        """The graph.json of a piece.

        Raises:
            UnsupportedError: it has none.
        """
        arguments = [node for node in piece.graph.nodes if node.op == "placeholder"]
        (output,) = piece.graph.find_nodes(op="output")
        nodes = [node for node in piece.graph.nodes if node.op == "call_function"]
        return Subgraph.of(nodes, arguments, output.args[0], self._is_weight, self.ranges)

    def _is_weight(self, node: fx.Node) -> bool:
        return node.op == "placeholder" and node.name in self.weight_names  # a piece's have the names of the graph's

    def _runs(self) -> Iterable[list[fx.Node]]:
        run: list[fx.Node] = []
        neutral: set[fx.Node] = set()  # sizes computed from sizes: they belong to no piece and break none
        for node in self.module.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                if not isinstance(node.meta.get("val"), Tensor):
                    neutral.add(node)
                continue
            if _is_number(node) and all(operand in neutral for operand in node.all_input_nodes):
                neutral.add(node)
            elif node.op == "call_function" and self._supported(node):
                run.append(node)
            else:
                if any(map(_computes, run)):
                    yield run
                run = []

    def _supported(self, node: fx.Node) -> bool:
        if node.target is operator.getitem:
            return self._supported(node.all_input_nodes[0])
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            self.refuse(getattr(target, "__name__", str(target)), "it is no ATen operator")
            return False
        if _is_number(node):
            return False
        if not target._schema.is_mutable and any(storage in self.guarded for storage in aliases(node)):
            return False  # a view that somebody may write through or keep: only eager mode gives the view itself
        reason = self._elsewhere(node) or self._reason(node)
        if reason:
            self.refuse(str(target), reason)
        return not reason

    def _elsewhere(self, node: fx.Node) -> str:
        """Says where a tensor of the call is that is not on the pieces' device."""
        for value in (node.meta.get("val"), *(operand.meta.get("val") for operand in node.all_input_nodes)):
            for tensor in value if isinstance(value, list | tuple) else (value,):
                if isinstance(tensor, Tensor) and tensor.device != self.device:
                    return f"a tensor is on {tensor.device}, the graph's are on {self.device}"
        return ""

    def _reason(self, node: fx.Node) -> str:
        """Why the call does not compile by itself; "" if it does."""
        results = [user for user in node.users if user.target is operator.getitem]
        outputs = results if isinstance(node.meta.get("val"), list | tuple) else [node]
        if not outputs:
            return ""
        try:
            arguments = [*node.all_input_nodes, *self.sizes]
            text = Subgraph.of([node, *results], arguments, outputs, self._is_weight, self.ranges).text
        except FlashFlowError as error:
            return str(error)
        device = device_name(self.device)
        if (text, device) not in _reasons:
            try:
                core().check_graph(text, device)
                _reasons[text, device] = ""
            except FlashFlowError as error:
                _reasons[text, device] = str(error)
        return _reasons[text, device]

    def _fuse_run(self, run: list[fx.Node], name: str) -> tuple[fx.Node, fx.GraphModule]:
        piece, operands, results = fuse_as_graphmodule(self.module, run, name, always_return_tuple=True)
        self.module.add_submodule(name, piece)
        graph = self.module.graph
        # Every size comes along: those of its tensors may be products from which none follows.
        sizes = [node for node in self.sizes if node not in operands]
        inside = piece.graph.find_nodes(op="placeholder")
        place = inside[-1] if inside else None
        for node in sizes:
            with piece.graph.inserting_after(place):
                place = piece.graph.placeholder(node.name)
            place.meta = dict(node.meta)
        piece.recompile()
        with graph.inserting_after(run[-1]):
            call = graph.call_module(name, (*operands, *sizes))
        place = call
        for i, result in enumerate(results):
            with graph.inserting_after(place):
                place = graph.call_function(operator.getitem, (call, i))
            place.meta = dict(result.meta)
            result.replace_all_uses_with(place)
        erase_nodes(self.module, run)
        return call, piece


def _gather_results(graph: fx.Graph) -> None:
    """Puts each getitem right behind the call whose result it takes."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is not operator.getitem:
            for user in reversed(list(node.users)):
                if user.target is operator.getitem:
                    node.append(user)


def _is_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool)


def _storages(value: Any) -> set[int]:
    if isinstance(value, Tensor):
        return {value.untyped_storage()._cdata}
    if isinstance(value, list | tuple):
        return set().union(*map(_storages, value))
    return set()


def aliases(node: fx.Node) -> set[int]:
    """The storages that a call's results share with its operands."""
    operands = set().union(*(_storages(operand.meta.get("val")) for operand in node.all_input_nodes))
    return operands & _storages(node.meta.get("val"))


def _computes(node: fx.Node) -> bool:
    return node.target is not operator.getitem and not aliases(node)


def _guarded_storages(graph: fx.Graph) -> set[int]:
    """What is changed in place or leaves the graph: views of it have to be views."""
    guarded: set[int] = set()
    for node in graph.nodes:
        if node.op == "output":
            for result in node.all_input_nodes:
                guarded |= _storages(result.meta.get("val"))
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            for operand in node.all_input_nodes:
                guarded |= _storages(operand.meta.get("val"))
        elif isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            schema = node.target._schema.arguments
            given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)} | node.kwargs
            for argument in schema:
                value = given.get(argument.name)
                if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, fx.Node):
                    guarded |= _storages(value.meta.get("val"))
    return guarded
