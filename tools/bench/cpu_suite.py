"""The CPU suite: decode and prefill at batch 1, beside torch eager and other engines, and what bandwidth allows."""

import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.bench import cpu_peers, torch_peer
from tools.bench.report import Row

from flashflow import LLM, SamplingParams
from flashflow.core import core


@dataclass(frozen=True)
class _Times:
    """Seconds of a token of decoding, and of prompts by their numbers of tokens."""

    decode: float
    prefill: dict[int, float]


@dataclass(frozen=True)
class _Turn:
    """floor is what a token's weights take at the bandwidth measured in the turn."""

    floor: float
    ours: _Times
    peers: dict[str, _Times]


def _rows(label: str, turns: list[_Turn], weight_bytes: int) -> list[Row]:
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

    The peer is torch eager fp32 of transformers' class on the same weights. Other engines run too where they are
    installed, in the environment or in the folder peers_path (cpu_peers.py).
    """
    rows: list[Row] = []
    prompts = [[(7 * i + 11) % 40000 + 100 for i in range(length)] for length in prompt_tokens]

    def times(once: Callable[[list[int], int], tuple[float, float]]) -> _Times:
        """Of an engine that runs a prompt and some tokens after it."""
        first, decode = once(prompts[0], decode_tokens)
        return _Times(decode, {len(prompts[0]): first} | {len(p): once(p, 1)[0] for p in prompts[1:]})

    with tempfile.TemporaryDirectory() as tmp:
        torch = torch_peer.load(model, threads, Path(tmp)) if with_peer else None
        source = torch.source if torch else torch_peer.source(model, Path(tmp))
        for dtype in dtypes:
            log(f"bench: {model} {dtype}: building the engine")
            llm = LLM(source, dtype=dtype, device="cpu", threads=threads, max_batch=1, cache_dir=Path(tmp))
            weight_bytes = llm.engine_info()["weight_bytes_per_token"]

            def ours(prompt: list[int], tokens: int, llm: LLM = llm) -> tuple[float, float]:
                # The first token is the prompt's.
                params = SamplingParams(temperature=0, max_tokens=1 + tokens, ignore_eos=True)
                timing = llm.generate(prompt, params)[0].timing
                return timing.prefill_s, 1 / timing.decode_tok_s

            peers: list[cpu_peers.Peer] = []
            if torch:
                folder = Path(tmp) / dtype
                folder.mkdir()
                peers = [torch, *cpu_peers.find(torch.model, dtype, threads, folder, peers_path, log)]
            for once in [ours, *(peer.run for peer in peers)]:  # warm-up: page in and settle the clocks
                once(prompts[-1], 2)
            turns: list[_Turn] = []
            for number in range(repeats):
                log(f"bench: {model} {dtype}: turn {number + 1} of {repeats}")
                bandwidth = core().measure_read_bandwidth(threads)
                turns.append(
                    _Turn(weight_bytes / bandwidth, times(ours), {peer.name: times(peer.run) for peer in peers})
                )
            rows += _rows(f"{model} {dtype}", turns, weight_bytes)
            if torch:
                del peers
                shutil.rmtree(folder)  # gigabytes
    return rows
