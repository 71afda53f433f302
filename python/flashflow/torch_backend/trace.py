"""From the graph that Dynamo captured to one of ATen operators, as torch.export would write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import SymT, guard_scalar, symbol_is_type

from flashflow.torch_backend.decompositions import DECOMPOSITIONS
from flashflow.torch_backend.partition import aliases

__all__ = ["to_aten"]


def to_aten(module: fx.GraphModule, inputs: Sequence[Any]) -> fx.GraphModule:
    """Traces `module` with fake tensors of Dynamo's own symbols.

    Composite operators (linear, layer_norm, scaled_dot_product_attention) stay whole, layers that are one operator of
    torch's are taken apart; in-place operators and views stay as they are, but for masks that are filled while nobody
    else knows them. Python numbers that Dynamo passes as inputs become constants, guarded by Dynamo. Every node carries
    its fake value in meta["val"].
    """
    context = TracingContext.try_get()
    if context is None or context.fake_mode is None:
        raise RuntimeError("there is no fake mode: not called by torch.compile")
    mode = context.fake_mode
    contexts: Any = context.tensor_to_context

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        symbolic = contexts.get(value)
        if symbolic is None:
            return mode.from_tensor(value, static_shapes=True)
        return mode.from_tensor(value, symbolic_context=symbolic, source=symbolic.tensor_source)

    fakes = [fake(value) for value in inputs]
    with mode, torch.no_grad():
        trace = make_fx(
            module,
            decomposition_table=DECOMPOSITIONS,
            tracing_mode="real",
            pre_dispatch=True,
            _allow_non_fake_inputs=True,
        )
        traced: fx.GraphModule = trace(*fakes)
    _simplify(traced)
    return traced


_PURE = {
    torch.ops.aten.masked_fill_.Scalar: torch.ops.aten.masked_fill.Scalar,
    torch.ops.aten.masked_fill_.Tensor: torch.ops.aten.masked_fill.Tensor,
}
_DETACH = (torch.ops.aten.detach.default, torch.ops.aten.detach_.default)


def _simplify(module: fx.GraphModule) -> None:
    """Puts numbers for nodes whose values are fixed, and for floats that depend on nothing but Python's floats; drops
    detach, which means nothing without gradients."""
    for node in reversed(list(module.graph.nodes)):
        value = node.meta.get("val")
        if node.op == "get_attr":
            node.meta["val"] = getattr(module, node.target)
        elif node.target in _PURE and _is_new(node.args[0], node):
            node.target = _PURE[node.target]
        elif node.target in _DETACH:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.op == "call_function" and _is_fixed(value):
            node.replace_all_uses_with(guard_scalar(value))
            module.graph.erase_node(node)
    module.recompile()


def _is_new(node: fx.Node, user: fx.Node) -> bool:
    """Whether a call made its result in memory of its own, and nothing but `user` reads it."""
    return node.op == "call_function" and list(node.users) == [user] and not aliases(node)


def _is_fixed(value: Any) -> bool:
    if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return False
    return all(symbol_is_type(symbol, SymT.FLOAT) for symbol in value.node.expr.free_symbols)
