"""The CPU suite: decode and prefill at batch 1, beside torch eager and other engines, and what bandwidth allows."""

import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from tools.bench import saved_model
from tools.bench.cpu_peers import PEERS, Engine
from tools.bench.cpu_turns import Turn, VariantProcess, open_variant, take_turns
from tools.bench.cpu_variant import OURS
from tools.bench.json_process import ProcessError
from tools.bench.report import Row

from flashflow import FlashFlowError
from flashflow.core import core


def _rows(label: str, turns: list[Turn], weight_bytes: int) -> list[Row]:
    median = statistics.median
    decode = median(turn.ours.decode for turn in turns)
    floor = median(turn.floor for turn in turns)
    rows = [
        Row(f"{label}: read bandwidth", weight_bytes / floor / 1e9, "GB/s"),
        Row(
            f"{label}: decode, batch 1",
            1 / decode,
            "tok/s",
            1 / floor,
            median(turn.floor / turn.ours.decode for turn in turns),
            f"bandwidth bound: {weight_bytes / 1e6:.0f} MB of weights a token",
        ),
    ]
    rows += [
        Row(
            f"{label}: decode, batch 1",
            1 / decode,
            "tok/s",
            1 / median(turn.peers[name].decode for turn in turns),
            median(turn.peers[name].decode / turn.ours.decode for turn in turns),
            name,
        )
        for name in turns[0].peers
    ]
    for tokens in turns[0].ours.prefill:
        what = f"{label}: prefill {tokens}"
        prefill = 1e3 * median(turn.ours.prefill[tokens] for turn in turns)
        rows += [
            Row(
                what,
                prefill,
                "ms",
                1e3 * median(turn.peers[name].prefill[tokens] for turn in turns),
                median(turn.peers[name].prefill[tokens] / turn.ours.prefill[tokens] for turn in turns),
                name,
            )
            for name in turns[0].peers
        ] or [Row(what, prefill, "ms")]
    return rows


def run(
    model: str,
    dtypes: list[str],
    prompt_tokens: list[int],
    decode_tokens: int,
    repeats: int,
    threads: int,
    with_peer: bool,
    log: Callable[[str], None],
    peers_path: Path | None = None,
) -> list[Row]:
    """Measures one model in each dtype: prompts of each length, and decoding after the first of them.

    The peers are torch eager fp32 of transformers' class on the same weights, and other engines where they are
    installed, in the environment or in the folder peers_path (cpu_peers.py).

    Raises:
        FlashFlowError: there is no such model, or ours fails.
    """
    prompts = [[(7 * i + 11) % 40000 + 100 for i in range(length)] for length in prompt_tokens]

    def measure(dtype: str, source: str, saved: Path, stack: ExitStack) -> list[Row]:
        label = f"{model} {dtype}"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=saved.parent)))  # gigabytes, for one dtype

        def say(text: str) -> None:
            log(f"bench: {label}: {text}")

        def start(engine: Engine, where: str | Path, theirs: str) -> VariantProcess:
            say(f"opening {engine.name} {theirs}")
            return stack.enter_context(closing(open_variant(engine, Path(where), folder, theirs, threads, peers_path)))

        try:
            ours = start(OURS, source, dtype)
            peers: dict[str, VariantProcess] = {}
            for engine in PEERS if with_peer else []:
                if theirs := engine.dtypes.get(dtype):
                    try:
                        peers[f"{engine.name} {theirs}"] = start(engine, saved, theirs)
                    except ProcessError as error:
                        say(f"{engine.name} {theirs} is left out: {error}")
            weight_bytes = ours.opened["weight_bytes"]
            turns = take_turns(
                ours,
                peers,
                prompts,
                decode_tokens,
                repeats,
                lambda: float(weight_bytes / core().measure_read_bandwidth(threads)),
                say,
            )
        except ProcessError as error:
            raise FlashFlowError(f"{label}: {error}") from error
        return _rows(label, turns, weight_bytes)

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as tmp:
        source = saved_model.source(model, Path(tmp))
        saved = Path(tmp) / "saved"
        if with_peer:
            saved_model.save(source, saved)
        for dtype in dtypes:
            with ExitStack() as stack:
                rows += measure(dtype, source, saved, stack)
    return rows
