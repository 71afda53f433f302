"""Turns of the CPU suite's variants: each in a process of its own, of which one at a time runs."""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tools.bench import cpu_variant
from tools.bench.cpu_peers import Engine
from tools.bench.json_process import JsonProcess, ProcessError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Times:
    """Seconds of a token of decoding, and of prompts by their numbers of tokens."""

    decode: float
    prefill: dict[int, float]


@dataclass(frozen=True)
class Turn:
    """floor is what a token's weights take at the bandwidth measured in the turn."""

    floor: float
    ours: Times
    peers: dict[str, Times]


class VariantProcess(JsonProcess):
    """A variant (cpu_variant.py), stopped while it is not asked: threads of pools spin on when their work is done."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], timeout: float = 600) -> None:
        super().__init__(command, environment, timeout)
        self._stop()

    def ask(self, line: str) -> dict[str, Any]:
        """The answer to a line, after which the process stands still."""
        self._process.send_signal(signal.SIGCONT)
        answer = super().ask(line)
        self._stop()
        return answer

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        """Seconds of the prompt to the first token, and of each of `tokens` greedy tokens after it."""
        answer = self.ask(json.dumps([prompt, tokens]))
        return answer["prefill_s"], answer["decode_s"]

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        with suppress(ChildProcessError):  # it ended
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def open_variant(
    engine: Engine, model: Path, folder: Path, dtype: str, threads: int, search: Path | None
) -> VariantProcess:
    """The engine with the model, converted in another process. search is a folder of packages beside the environment's.

    Raises:
        ProcessError: it is not installed, does not take the model, or fails.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, *([str(search)] if search else [])])}

    def command(verb: str) -> list[str]:
        mine = str(folder / engine.module)
        return [sys.executable, cpu_variant.__file__, verb, engine.module, str(model), mine, dtype, str(threads)]

    with closing(JsonProcess(command("convert"), environment, timeout=600)):
        pass
    return VariantProcess(command("open"), environment)


def take_turns(
    ours: VariantProcess,
    peers: dict[str, VariantProcess],
    prompts: list[list[int]],
    decode_tokens: int,
    repeats: int,
    floor: Callable[[], float],
    log: Callable[[str], None],
) -> list[Turn]:
    """Ours and each peer in turn. A peer that fails leaves all turns, with a line that says why.

    Raises:
        ProcessError: ours fails.
    """

    def of_peers(once: Callable[[VariantProcess], _T]) -> dict[str, _T]:
        done: dict[str, _T] = {}
        for name, peer in list(peers.items()):
            try:
                done[name] = once(peer)
            except ProcessError as error:
                log(f"{name} is left out: {error}")
                del peers[name]
        return done

    def times(variant: VariantProcess) -> Times:
        first, decode = variant.run(prompts[0], decode_tokens)
        return Times(decode, {len(prompts[0]): first} | {len(p): variant.run(p, 1)[0] for p in prompts[1:]})

    def warm_up(variant: VariantProcess) -> tuple[float, float]:
        """Pages in and settles the clocks."""
        return variant.run(prompts[-1], 2)

    warm_up(ours)
    of_peers(warm_up)
    turns: list[Turn] = []
    for number in range(repeats):
        log(f"turn {number + 1} of {repeats}")
        turns.append(Turn(floor(), times(ours), of_peers(times)))
    return [Turn(turn.floor, turn.ours, {name: turn.peers[name] for name in peers}) for turn in turns]
