"""How calls on a GPU are timed: in CUDA graphs of many calls each, replayed in turn.

A graph hides what launching costs the CPU. Replays take turns between the variants, so that all of them see the same
clocks: a GPU at its power limit slows down by a third within seconds.
"""

from collections.abc import Callable

import torch
from kernels.bench.case import Bind, Call, Case, Operands

ROTATED_BYTES = 512 << 20  # several times any L2
GRAPH_US = 3000.0  # about what one replay takes
MOST_CALLS = 400


def copies_needed(operand_bytes: int) -> int:
    """How many copies of the operands take ROTATED_BYTES together."""
    return max(1, -(-ROTATED_BYTES // max(operand_bytes, 1)))


def calls_in_graph(call_us: float, copies: int) -> int:
    """How many calls of about call_us fill a replay; at least one for each copy of the operands."""
    return max(copies, min(MOST_CALLS, int(GRAPH_US / max(call_us, 2.0))))


class Replay:
    """A graph of many calls, which take turns among those given."""

    def __init__(self, calls: list[Call]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)
        with torch.cuda.stream(side):
            calls[0]()  # loads, compiles
            side.synchronize()
            self._start.record()
            for call in calls[:3]:
                call()
            self._end.record()
            self._end.synchronize()
        self._calls = calls  # what they captured beside the operands is the graph's too
        call_us = self._start.elapsed_time(self._end) * 1000 / len(calls[:3])
        self._count = calls_in_graph(call_us, len(calls))
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for i in range(self._count):
                calls[i % len(calls)]()
        self._graph.replay()

    def call_us(self) -> float:
        """Replays once; the mean time of a call."""
        self._start.record()
        self._graph.replay()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) * 1000 / self._count


def measure(
    case: Case, rounds: int, log: Callable[[str], None], wanted: Callable[[str], bool] = lambda _: True
) -> dict[str, dict[str, list[float]]]:
    """Microseconds of a call in each round, by variant and mode.

    A variant that this machine cannot run (a peer that torch lacks here, a kernel for another GPU) is logged and left
    out, and so are variants that are not wanted.
    """
    operands = case.make()
    copies = [operands]
    if "cold" in case.modes:
        size = sum(t.numel() * t.element_size() for t in operands if t is not None)
        copies += [_clone(operands) for _ in range(copies_needed(size) - 1)]
    replays: dict[tuple[str, str], Replay] = {}
    for variant, bind in case.variants().items():
        if not wanted(variant):
            continue
        for mode in case.modes:
            try:
                replays[variant, mode] = Replay(_bound(bind, copies if mode == "cold" else copies[:1]))
            except (RuntimeError, AttributeError) as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                log(f"{case.kernel} {case.shape}: {variant} {mode} left out: {lines[0][:160]}")
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for (variant, mode), replay in replays.items():
            times.setdefault(variant, {}).setdefault(mode, []).append(replay.call_us())
    return times


def _bound(bind: Bind, copies: list[Operands]) -> list[Call]:
    return [bind(*operands) for operands in copies]


def _clone(operands: Operands) -> Operands:
    return tuple(None if t is None else t.clone() for t in operands)
