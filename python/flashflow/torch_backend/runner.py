"""Runs compiled graphs on torch tensors: no copies but where memory is not row-major, weights packed once."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
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

_plans: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_packed: weakref.WeakValueDictionary[tuple[object, ...], Any] = weakref.WeakValueDictionary()


def _compiled(text: str) -> Any:
    graph = _plans.get(text)
    if graph is None:
        graph = core().CompiledGraph(text)
        _plans[text] = graph
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


class _Weight:
    """One weight of a plan in its layout, packed again when a source's version or memory changes.

    While a packing is kept so is its sources' memory: an address that is the same then is the same memory. What torch
    itself does not count as a change, writes through `.data` or another process, is not seen.
    """

    def __init__(self, sources: Sequence[int], layout: str, transposed: bool) -> None:
        self.sources = tuple(sources)  # arguments
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
        key = (state, *self.form)
        shared = _packed.get(key) if state is not None else None
        if shared is None:
            array = _array(tensors[0] if len(tensors) == 1 else torch.cat([tensor.detach() for tensor in tensors]))
            shared = core().PackedWeight(array, *self.form)
            if state is not None:
                _packed[key] = shared
            if self.form != ("row_major", False):
                counters.packed_weights += 1
        self.packed, self.state = shared, state
        self.kept = [*tensors, *(tensor.detach() for tensor in tensors)]


def _state(tensors: Sequence[Tensor]) -> tuple[object, ...] | None:
    """What changes when a weight does; None where torch keeps no count (tensors made in inference mode)."""
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((id(tensor), tensor._version, tensor.data_ptr(), tensor.stride()) for tensor in tensors)


class GraphRunner(torch.nn.Module):
    """A compiled subgraph, called with its arguments and giving the tuple of its outputs.

    Raises UnsupportedError if it does not compile.
    """

    def __init__(self, subgraph: Subgraph) -> None:
        super().__init__()
        self.subgraph = subgraph
        self.graph = _compiled(subgraph.text)
        self.weights = [
            _Weight([subgraph.weights[name] for name in names], layout, transposed)
            for names, _, _, layout, transposed in self.graph.weights
        ]
        self.inverses = [
            None if order is None else tuple(sorted(range(len(order)), key=order.__getitem__))
            for order in subgraph.permutations
        ]

    def forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        counters.runs += 1
        sizes = [source.value(arguments) for source in self.subgraph.sizes]
        inputs = [_array(arguments[i]) for i in self.subgraph.inputs]
        weights = [weight.get(arguments) for weight in self.weights]
        results = map(_tensor, self.graph.run(sizes, inputs, weights))
        return tuple(
            result if inverse is None else result.permute(inverse)
            for result, inverse in zip(results, self.inverses, strict=True)
        )
