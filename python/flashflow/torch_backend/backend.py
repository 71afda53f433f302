"""The backend itself: what Dynamo calls with a graph."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from flashflow.errors import FlashFlowError, UnsupportedError
from flashflow.log import logger
from flashflow.torch_backend.partition import Pieces
from flashflow.torch_backend.runner import GraphRunner, counters
from flashflow.torch_backend.trace import to_aten

__all__ = ["FlashFlowWarning", "flashflow_backend"]


class FlashFlowWarning(UserWarning):
    """Something runs in eager mode; it is said once for each reason."""


_warned: set[str] = set()
_lock = threading.Lock()


def _warn_once(subject: str, message: str) -> None:
    with _lock:
        if subject in _warned:
            return
        _warned.add(subject)
    warnings.warn(message, FlashFlowWarning, stacklevel=2)


def flashflow_backend(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """torch.compile's backend: what the runtime can run runs there, everything else in eager mode.

    On the CPU and on NVIDIA GPUs, where the model's tensors are. Inference only: a graph that would need gradients
    stays in eager mode, as do autocast regions and other devices.

    Args:
        module: Dynamo's graph.
        example_inputs: tensors and sizes to call it with.

    Returns:
        A function of the same inputs and outputs.
    """
    counters.graphs += 1
    device = _device_of(example_inputs)
    reason = _why_eager(module, example_inputs, device)
    if reason:
        _warn_once(reason, f"flashflow: a graph stays in eager mode: {reason}")
        counters.eager_graphs += 1
        return module.forward
    try:
        aten = to_aten(module, example_inputs)
    except torch._dynamo.exc.RestartAnalysis:
        raise
    except Exception as error:
        _warn_once(type(error).__name__, f"flashflow: a graph stays in eager mode: it cannot be traced: {error}")
        logger.debug("tracing failed", exc_info=True)
        counters.eager_graphs += 1
        return module.forward
    placeholders = aten.graph.find_nodes(op="placeholder")
    weights = {node for node, value in zip(placeholders, example_inputs, strict=True) if _is_weight(node, value)}
    return _compile(aten, weights, device)


def _compile(aten: fx.GraphModule, weights: set[fx.Node], device: torch.device) -> Callable[..., Any]:
    ranges = _symbol_ranges(aten)
    pieces = Pieces(aten, weights.__contains__, ranges, _refuse, device)
    for call, piece in pieces.fuse():
        try:
            runner = GraphRunner(pieces.subgraph(piece), device)
        except FlashFlowError as error:  # each of its calls compiles, all of them together do not
            targets = {str(node.target) for node in piece.graph.nodes if node.op == "call_function"}
            _refuse(" + ".join(sorted(targets)), str(error))
            continue
        counters.parts += 1
        setattr(aten, str(call.target), _Piece(runner, piece))
    aten.recompile()
    return _WithoutGrad(aten)


class _WithoutGrad:
    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module

    def __call__(self, *arguments: Any) -> Any:
        with torch.no_grad():
            return self.module(*arguments)


class _Piece(torch.nn.Module):
    """A compiled piece, and what it was made of for what turns out to be unsupported at some size."""

    def __init__(self, runner: GraphRunner, eager: fx.GraphModule) -> None:
        super().__init__()
        self.runner, self.eager = runner, eager
        self.failed = False

    def forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        if not self.failed:
            try:
                return tuple(self.runner(*arguments))
            except UnsupportedError as error:
                self.failed = True
                _refuse(error.op or "a kernel", str(error))
        return tuple(self.eager(*arguments))


def _refuse(name: str, reason: str) -> None:
    _warn_once(name, f"flashflow: {name} runs in eager mode: {reason}")


def _symbol_ranges(module: fx.GraphModule) -> Any:
    for node in module.graph.nodes:
        value = node.meta.get("val")
        for size in (value, *(value.shape if isinstance(value, Tensor) else ())):
            if isinstance(size, torch.SymInt):
                return size.node.shape_env.var_to_range
    return {}


def _device_of(inputs: Sequence[Any]) -> torch.device:
    """The first GPU that a tensor is on, else the CPU. Tensors elsewhere are left to eager mode, call by call."""
    devices = [value.device for value in inputs if isinstance(value, Tensor)]
    return next((device for device in devices if device.type == "cuda"), torch.device("cpu"))


def _why_eager(module: fx.GraphModule, inputs: Sequence[Any], device: torch.device) -> str:
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "gradients are enabled; call it under torch.no_grad() or torch.inference_mode()"
    for tensor in tensors:
        if tensor.device.type not in ("cpu", "cuda"):
            return f"a tensor is on {tensor.device.type}; FlashFlow runs on CPUs and NVIDIA GPUs"
        if tensor.layout != torch.strided:
            return f"a tensor has the layout {tensor.layout}"
    if torch.is_autocast_enabled(device.type):
        return "autocast is enabled"
    for node in module.graph.nodes:
        if node.target is torch.amp.autocast_mode._enter_autocast:
            return "autocast is enabled in the graph"
        if node.target is torch._C._set_grad_enabled and node.args[0] is not False:
            return "gradients are enabled in the graph"
    return ""


def _is_weight(node: fx.Node, value: Any) -> bool:
    """Whether an input is the same tensor in every call, as parameters and buffers are."""
    if not isinstance(value, Tensor) or not all(isinstance(size, int) for size in node.meta["val"].shape):
        return False
    return isinstance(value, torch.nn.Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None
