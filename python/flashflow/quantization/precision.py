"""Which layers of a model become int8: those that are faster so, as far as a budget of perplexity goes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flashflow.errors import InvalidArgumentError
from flashflow.roofline import RooflineRow

__all__ = ["LayerChoice", "LayerTimes", "choose_layers", "explain", "mean_of_kind", "pair_layers"]


@dataclass(frozen=True)
class LayerTimes:
    """Operations that share weights, and so become int8 together or not at all.

    Attributes:
        weights: of them all, by name.
        float_us: what they take in a step, in microseconds, in floats.
        int8_us: the same with codes, the coding of their input included.
    """

    weights: tuple[str, ...]
    float_us: float
    int8_us: float

    @property
    def saved_us(self) -> float:
        """By how much int8 is faster."""
        return self.float_us - self.int8_us


@dataclass(frozen=True)
class LayerChoice:
    """What became of some layers.

    Attributes:
        times: of them.
        error: what coding them does to their output, |y8 - y|^2 / |y|^2; None where that is not known.
        int8: whether they become codes.
        reason: why not, or why.
    """

    times: LayerTimes
    error: float | None
    int8: bool
    reason: str


def mean_of_kind(rows: Sequence[RooflineRow]) -> list[RooflineRow]:
    """The rows, each with the mean time of those of the same kernel and sizes: layers of one kind take the same time.

    What differs between them is noise, which would have some of them become codes and others not.
    """

    def kind(row: RooflineRow) -> tuple[object, ...]:
        return row.op, row.tactic, row.bytes, row.flops, row.coded

    times: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        if row.achieved_us is not None:
            times.setdefault(kind(row), []).append(row.achieved_us)
    return [
        row if row.achieved_us is None else replace(row, achieved_us=statistics.fmean(times[kind(row)])) for row in rows
    ]


def pair_layers(floats: Iterable[RooflineRow], codes: Iterable[RooflineRow]) -> list[LayerTimes]:
    """The layers that can be codes, with the times of both ways.

    Args:
        floats: the measured operations of the model in floats.
        codes: the same of the model whose layers are codes, as far as they can be.

    Returns:
        One element for the operations that share weights, directly or through others, such as a token table that is
        looked up in and is the head; in the order of the model.

    Raises:
        InvalidArgumentError: an operation was not measured.
    """
    rows = [*((row, 0) for row in floats), *((row, 1) for row in codes)]
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for row, _ in rows:
        for name in row.weights[1:]:
            leader[find(name)] = find(row.weights[0])
    times: dict[str, list[float]] = {}
    weights: dict[str, list[str]] = {}
    coded: set[str] = set()
    for row, way in rows:
        if not row.weights:
            continue
        if row.achieved_us is None:
            raise InvalidArgumentError(f"the time of {row.op} was not measured", op="pair_layers")
        group = find(row.weights[0])
        times.setdefault(group, [0.0, 0.0])[way] += row.achieved_us
        weights.setdefault(group, []).extend(name for name in row.weights if name not in weights.get(group, ()))
        if way == 1 and row.coded:
            coded.add(group)
    return [LayerTimes(tuple(weights[group]), *times[group]) for group in times if group in coded]


def choose_layers(
    layers: Sequence[LayerTimes],
    errors: Callable[[], Mapping[str, float]],
    growth: Callable[[Collection[str]], float],
    budget: float,
    margin: float,
) -> list[LayerChoice]:
    """Takes every layer that is faster in int8, and gives back what costs the most for what it saves.

    Args:
        layers: of pair_layers.
        errors: by weight, what coding its layer does to the output; weights that are only looked up have none. Asked
            for where layers must be given back.
        growth: of the model's perplexity, 0.01 being one percent, when all layers but those of these weights are codes.
        budget: that growth may come to.
        margin: a layer counts as faster when it saves more than this share of its time.

    Returns:
        One choice a layer, in the order given.
    """

    slow = [layer for layer in layers if layer.saved_us <= margin * layer.float_us]
    fast = [layer for layer in layers if layer.saved_us > margin * layer.float_us]
    found: Mapping[str, float] = {}

    def error_of(layer: LayerTimes) -> float | None:
        errors_of = [found[name] for name in layer.weights if name in found]
        return max(errors_of) if errors_of else None

    def worth(layer: LayerTimes) -> float:
        error = error_of(layer)
        return layer.saved_us / error if error else float("inf")

    def fits(given_back: int) -> bool:
        kept = {name for layer in [*slow, *fast[:given_back]] for name in layer.weights}
        return given_back == len(fast) or growth(kept) <= budget

    given_back = 0
    if not fits(0):
        found = errors()
        fast.sort(key=worth)
        low, high = 1, len(fast)  # the fewest that are enough lie in between
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle + 1, high)
        given_back = low
    back = {layer.weights for layer in fast[:given_back]}

    def choice(layer: LayerTimes) -> LayerChoice:
        if layer.saved_us <= margin * layer.float_us:
            return LayerChoice(layer, error_of(layer), False, "int8 is not faster")
        if layer.weights in back:
            return LayerChoice(layer, error_of(layer), False, "given back: the budget of perplexity")
        return LayerChoice(layer, error_of(layer), True, "faster")

    return [choice(layer) for layer in layers]


def explain(choices: Sequence[LayerChoice]) -> str:
    """A table: one line for layers of one input, under a heading, and their sums."""
    lines = [f"{'float us':>10} {'int8 us':>10} {'output error':>12} {'becomes':>8}  layers, reason"]
    for choice in choices:
        error = "-" if choice.error is None else f"{choice.error:.3e}"
        first, *others = (name.removesuffix(".weight") for name in choice.times.weights)
        names = ", ".join([first, *(name.rpartition(".")[2] for name in others)])
        lines.append(
            f"{choice.times.float_us:10.2f} {choice.times.int8_us:10.2f} {error:>12} "
            f"{'int8' if choice.int8 else 'float':>8}  {names}: {choice.reason}"
        )
    chosen = sum(choice.times.int8_us if choice.int8 else choice.times.float_us for choice in choices)
    lines.append(
        f"{sum(choice.times.float_us for choice in choices):10.2f} "
        f"{sum(choice.times.int8_us for choice in choices):10.2f}  all of them; as chosen {chosen:.2f}: "
        f"{sum(choice.int8 for choice in choices)} of {len(choices)} in int8"
    )
    return "\n".join(lines)
