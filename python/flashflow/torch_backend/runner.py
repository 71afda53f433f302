"""Runs compiled graphs on torch tensors: no copies but where memory is not row-major, weights packed once.

On a GPU all memory is torch's own, outputs and intermediate values too, and all is launched on torch's current stream.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flashflow.core import core
from flashflow.torch_backend.subgraph import Subgraph

__all__ = ["Counters", "GraphRunner", "counters"]


@dataclasses.dataclass
class Counters:
    """What the backend did so far in this process."""

    graphs: int = 0  # graphs that torch.compile brought
    eager_graphs: int = 0  # of them, left to eager as a whole
    parts: int = 0  # pieces of graphs that run compiled
    plans: int = 0  # plans built; equal pieces share one
    packed_weights: int = 0  # copies of weights brought into a kernel's layout
    runs: int = 0  # calls of compiled pieces

    def reset(self) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, 0)


counters = Counters()

_plans: weakref.WeakValueDictionary[tuple[str, str], Any] = weakref.WeakValueDictionary()
_packed: weakref.WeakValueDictionary[tuple[object, ...], Any] = weakref.WeakValueDictionary()


def _compiled(text: str, device: str) -> Any:
    graph = _plans.get((text, device))
    if graph is None:
        graph = core().CompiledGraph(text, device)
        _plans[text, device] = graph
        counters.plans += 1
    return graph


def _array(tensor: Tensor) -> Any:
    """The tensor's memory as a NumPy array, bf16 as the bits; a row-major copy where it lies otherwise."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.contiguous().view(torch.uint16)
    return tensor.contiguous().numpy(force=True)


def _tensor(array: Any) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if array.size else tensor.new_empty(array.shape)  # NumPy's strides are 0 where there is nothing


_DTYPES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "bool",
}
_TORCH_DTYPES = {name: dtype for dtype, name in _DTYPES.items()}


def _dense(tensor: Tensor) -> Tensor:
    """The tensor itself where it is row-major and lies as kernels read it best: 16 bytes at a time."""
    tensor = tensor.resolve_neg().contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def _described(tensor: Tensor) -> tuple[int, str, tuple[int, ...]]:
    """A dense tensor as CompiledGraph.launch takes it."""
    return tensor.data_ptr(), _DTYPES[tensor.dtype], tuple(tensor.shape)


def device_name(device: torch.device) -> str:
    """The device's name in FlashFlow: cpu or cuda:N."""
    return f"{device.type}:{device.index or 0}" if device.type == "cuda" else device.type


class _Weight:
    """One weight of a plan in its layout, packed again when a source's version or memory changes.

    While a packing is kept so is its sources' memory: an address that is the same then is the same memory. What torch
    itself does not count as a change, writes through `.data` or another process, is not seen.
    """

    def __init__(self, sources: Sequence[int], dtype: str, layout: str, transposed: bool) -> None:
        self.sources = tuple(sources)  # arguments
        self.dtype = dtype  # on a GPU; on the CPU the plan's is the sources'
        self.form = (layout, transposed)
        self.packed: Any = None
        self.state: tuple[object, ...] | None = None
        self.kept: list[Tensor] = []

    def get(self, arguments: Sequence[Any]) -> Any:
        tensors = [arguments[i] for i in self.sources]
        state = _state(tensors)
        if self.packed is None or state is None or state != self.state:
            self._pack(tensors, state)
        return self.packed

    def _pack(self, tensors: Sequence[Tensor], state: tuple[object, ...] | None) -> None:
        key = (state, self.dtype, *self.form)
        shared = _packed.get(key) if state is not None else None
        if shared is None:
            tensor = tensors[0] if len(tensors) == 1 else torch.cat([tensor.detach() for tensor in tensors])
            shared = self._on_gpu(tensor) if tensor.is_cuda else core().PackedWeight(_array(tensor), *self.form)
            if state is not None:
                _packed[key] = shared
            if self.form != ("row_major", False):
                counters.packed_weights += 1
        self.packed, self.state = shared, state
        self.kept = [*tensors, *(tensor.detach() for tensor in tensors)]

    def _on_gpu(self, source: Tensor) -> Tensor:
        """The tensor's own memory where that lies as the plan wants it, else a copy.

        Kernels read weights before those ahead of them have ended, and on any stream: what wrote them is waited for.
        """
        tensor = source.detach()
        if self.form[1]:
            tensor = tensor.t()
        tensor = _dense(tensor.to(_TORCH_DTYPES[self.dtype]))
        torch.cuda.synchronize(tensor.device)
        return tensor


def _state(tensors: Sequence[Tensor]) -> tuple[object, ...] | None:
    """What changes when a weight does; None where torch keeps no count (tensors made in inference mode)."""
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((id(tensor), tensor._version, tensor.data_ptr(), tensor.stride()) for tensor in tensors)


class GraphRunner(torch.nn.Module):
    """A compiled subgraph, called with its arguments and giving the tuple of its outputs.

    Raises UnsupportedError if it does not compile.
    """

    def __init__(self, subgraph: Subgraph, device: torch.device | None = None) -> None:
        super().__init__()
        self.subgraph = subgraph
        self.device = device or torch.device("cpu")
        self.graph = _compiled(subgraph.text, device_name(self.device))
        self.weights = [
            _Weight([subgraph.weights[name] for name in names], dtype, layout, transposed)
            for names, dtype, _, layout, transposed in self.graph.weights
        ]
        self.output_dtypes = [_TORCH_DTYPES[dtype] for _, dtype, _ in self.graph.outputs]
        self.inverses = [
            None if order is None else tuple(sorted(range(len(order)), key=order.__getitem__))
            for order in subgraph.permutations
        ]

    def forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        counters.runs += 1
        sizes = [source.value(arguments) for source in self.subgraph.sizes]
        weights = [weight.get(arguments) for weight in self.weights]
        results: Iterable[Tensor]
        if self.device.type == "cuda":
            results = self._launch(sizes, [_dense(arguments[i]) for i in self.subgraph.inputs], weights)
        else:
            inputs = [_array(arguments[i]) for i in self.subgraph.inputs]
            results = map(_tensor, self.graph.run(sizes, inputs, weights))
        return tuple(
            result if inverse is None else result.permute(inverse)
            for result, inverse in zip(results, self.inverses, strict=True)
        )

    def _launch(self, sizes: list[int], inputs: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """Memory that is freed on the way is torch's to give again to what comes later on the stream, no earlier."""
        with torch.cuda.device(self.device):
            outputs = [
                torch.empty(dims, dtype=dtype, device=self.device)
                for dims, dtype in zip(self.graph.output_dims(sizes), self.output_dtypes, strict=True)
            ]
            arena = torch.empty(self.graph.arena_bytes(sizes), dtype=torch.uint8, device=self.device)
            self.graph.launch(
                sizes,
                [_described(tensor) for tensor in inputs],
                [_described(tensor) for tensor in weights],
                [_described(tensor) for tensor in outputs],
                (arena.data_ptr(), arena.numel()),
                torch.cuda.current_stream(self.device).cuda_stream,
            )
        return outputs
