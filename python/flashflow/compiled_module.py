"""flashflow.compile: a module as one compiled graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree
from torch.utils._sympy.value_ranges import ValueRanges

from flashflow.errors import InvalidArgumentError, UnsupportedError
from flashflow.frontend.export import exported_program
from flashflow.torch_backend.runner import GraphRunner
from flashflow.torch_backend.subgraph import Subgraph

__all__ = ["CompiledModule", "compile"]


class CompiledModule:
    """What flashflow.compile returns: called like the module, with tensors on its device, it gives what that gives.

    The module's parameters are read where they are: packed at the first call, and again once they were changed in
    place.
    """

    def __init__(self, program: torch.export.ExportedProgram, module: nn.Module) -> None:
        self._program = program
        by_name = {node.name: node for node in program.graph.nodes}
        signature = program.graph_signature
        if any(spec.kind != OutputKind.USER_OUTPUT for spec in signature.output_specs):
            raise UnsupportedError("the module changes its buffers or inputs", hint="return the new values instead")
        placeholders = [by_name[spec.arg.name] for spec in signature.input_specs]
        weights = [spec.kind != InputKind.USER_INPUT for spec in signature.input_specs]
        self._fixed = _values(program, module)
        self._device = _device_of([*self._fixed, *(node.meta.get("val") for node in placeholders)])
        names = {node.name for node, weight in zip(placeholders, weights, strict=True) if weight}
        outputs = [by_name.get(getattr(spec.arg, "name", "")) for spec in signature.output_specs]
        if any(node is None or not isinstance(node.meta.get("val"), Tensor) for node in outputs):
            raise UnsupportedError("the module returns something that is no tensor")
        calls = [node for node in program.graph.nodes if node.op == "call_function"]
        self._runner = GraphRunner(
            Subgraph.of(
                calls,
                placeholders,
                [node for node in outputs if node is not None],
                lambda node: node.name in names,
                _from_one_on(program.range_constraints),
                locations=True,
            ),
            self._device,
        )

    @property
    def plan(self) -> str:
        """The plan, as JSON."""
        text: str = self._runner.graph.plan
        return text

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module.

        Raises:
            InvalidArgumentError: the arguments differ from the example's in structure, dtype or a fixed size.
        """
        flat, structure = pytree.tree_flatten((args, kwargs))
        expected = self._program.call_spec.in_spec
        if structure != expected:
            raise InvalidArgumentError(f"the arguments are {structure}, the example's were {expected}", op="arguments")
        for value in flat:
            if isinstance(value, Tensor) and value.device != self._device:
                raise InvalidArgumentError(f"a tensor is on {value.device}; expected {self._device}", op="arguments")
        results = self._runner(*self._fixed, *flat)
        return pytree.tree_unflatten(results, self._program.call_spec.out_spec)


def compile(
    module: nn.Module,
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> CompiledModule:
    """Compiles a module for the device that it is on, as one graph: all of it, or an error that says what is missing.

    On a GPU, parameters are read and results are written where torch has its memory, on torch's current stream.

    Args:
        module: in eval mode. Any inputs and outputs that torch.export takes; gradients are not computed.
        example_inputs, example_kwargs: to export it with.
        dynamic_shapes: as for torch.export.export. None: every size that the module does not fix may differ from the
            example's, from 1 on. Give sizes there that differ from each other and from 0 and 1, which torch takes for
            fixed.

    Raises:
        InvalidArgumentError: the module is in training mode, has tensors on several devices, or uses an operation that
            is not known; it is named with its source line.
        UnsupportedError: it cannot be exported, or an operation has no kernel for its dtypes.
    """
    if module.training:
        raise InvalidArgumentError("the module is in training mode", op="module", hint="call module.eval() first")
    arguments, keywords = _distinct(tuple(example_inputs), dict(example_kwargs or {}))
    if dynamic_shapes is None:
        dynamic_shapes = _any_sizes(module, arguments, keywords)
    return CompiledModule(exported_program(module, arguments, keywords, dynamic_shapes), module)


def _device_of(values: Sequence[Any]) -> torch.device:
    """The one device of all tensors among the values, the CPU if there are none."""
    devices = {value.device for value in values if isinstance(value, Tensor)} or {torch.device("cpu")}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise InvalidArgumentError(f"the module and its inputs are on {names}", hint="bring them to one device")
    return devices.pop()


def _distinct(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments without a tensor that occurs twice: torch.export would take the two for one input for good."""
    seen: set[int] = set()

    def own(value: Any) -> Any:
        if not isinstance(value, Tensor) or id(value) not in seen:
            seen.add(id(value))
            return value
        return value.clone()

    distinct: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(own, (arguments, keywords))
    return distinct


def _any_sizes(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for value in pytree.tree_leaves((arguments, keywords)):
        if isinstance(value, Tensor) and value.dim() > 0:
            shapes[value] = dict.fromkeys(range(value.dim()), torch.export.Dim.AUTO)
    return shapes.dynamic_shapes(module, arguments, keywords)


def _from_one_on(ranges: Mapping[Any, Any]) -> dict[Any, Any]:
    """torch.export's ranges; it takes every size for 2 or more, which is no condition of the graph's."""
    return {symbol: ValueRanges(1, bounds.upper) if bounds.lower == 2 else bounds for symbol, bounds in ranges.items()}


def _values(program: torch.export.ExportedProgram, module: nn.Module) -> list[Tensor]:
    """The module's own parameters and buffers, and the constants of its code, in the order of the graph's inputs."""
    own: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own |= dict(module.named_buffers(remove_duplicate=False))
    values = []
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            continue
        value = own.get(spec.target, program.constants.get(spec.target))
        if not isinstance(value, Tensor):
            raise UnsupportedError(f"the module carries {spec.target!r}, a {type(value).__name__}", op=str(spec.target))
        values.append(value)
    return values
