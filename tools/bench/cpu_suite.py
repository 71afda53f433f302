"""The CPU suite: decode and prefill at batch 1 beside torch eager, and beside what memory bandwidth allows."""

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
class _Turn:
    """Seconds of one turn: a token of decoding, a prompt; floor is a token's weights at the measured bandwidth."""

    floor: float
    decode: float
    prefill: float
    decode_peer: float | None
    prefill_peer: float | None
    others: dict[str, tuple[float, float]]  # prefill and decode of other engines, by name


def _rows(label: str, turns: list[_Turn], weight_bytes: int, prompt_tokens: int) -> list[Row]:
    median = statistics.median
    decode = median(turn.decode for turn in turns)
    prefill = median(turn.prefill for turn in turns)
    floor = median(turn.floor for turn in turns)
    rows = [
        Row(f"{label}: read bandwidth", weight_bytes / floor / 1e9, "GB/s"),
        Row(
            f"{label}: decode, batch 1",
            1 / decode,
            "tok/s",
            1 / floor,
            median(turn.floor / turn.decode for turn in turns),
            f"bandwidth bound: {weight_bytes / 1e6:.0f} MB of weights a token",
        ),
    ]
    for name in turns[0].others:
        theirs = [(turn, *turn.others[name]) for turn in turns]
        rows += [
            Row(
                f"{label}: decode, batch 1",
                1 / decode,
                "tok/s",
                1 / median(d for _, _, d in theirs),
                median(d / turn.decode for turn, _, d in theirs),
                name,
            ),
            Row(
                f"{label}: prefill {prompt_tokens}",
                1e3 * prefill,
                "ms",
                1e3 * median(p for _, p, _ in theirs),
                median(p / turn.prefill for turn, p, _ in theirs),
                name,
            ),
        ]
    peers = [(turn, turn.decode_peer, turn.prefill_peer) for turn in turns]
    if any(d is None or p is None for _, d, p in peers):
        return [*rows, Row(f"{label}: prefill {prompt_tokens}", 1e3 * prefill, "ms")]
    decodes = [(turn.decode, d) for turn, d, _ in peers if d is not None]
    prefills = [(turn.prefill, p) for turn, _, p in peers if p is not None]
    against = "torch eager fp32"
    return [
        *rows,
        Row(
            f"{label}: decode, batch 1",
            1 / decode,
            "tok/s",
            1 / median(theirs for _, theirs in decodes),
            median(theirs / ours for ours, theirs in decodes),
            against,
        ),
        Row(
            f"{label}: prefill {prompt_tokens}",
            1e3 * prefill,
            "ms",
            1e3 * median(theirs for _, theirs in prefills),
            median(theirs / ours for ours, theirs in prefills),
            against,
        ),
    ]


def run(
    model: str,
    dtypes: list[str],
    prompt_tokens: int,
    decode_tokens: int,
    repeats: int,
    threads: int,
    with_peer: bool,
    log: Callable[[str], None],
    peers_path: Path | None = None,
) -> list[Row]:
    """Measures one model in each dtype; the peer is torch eager fp32 of transformers' class on the same weights.

    Other engines run too where they are installed, in the environment or in the folder peers_path (cpu_peers.py).
    """
    rows: list[Row] = []
    prompt = [(7 * i + 11) % 40000 + 100 for i in range(prompt_tokens)]
    with tempfile.TemporaryDirectory() as tmp:
        peer = torch_peer.load(model, threads, Path(tmp)) if with_peer else None
        source = peer.source if peer else torch_peer.source(model, Path(tmp))
        for dtype in dtypes:
            log(f"bench: {model} {dtype}: building the engine")
            llm = LLM(source, dtype=dtype, device="cpu", threads=threads, max_batch=1, cache_dir=Path(tmp))
            weight_bytes = llm.engine_info()["weight_bytes_per_token"]
            params = SamplingParams(temperature=0, max_tokens=decode_tokens, ignore_eos=True)
            llm.generate(prompt, params)  # warm-up: page in and settle the clocks
            others: list[cpu_peers.Peer] = []
            if peer:
                peer.prefill(prompt)
                folder = Path(tmp) / dtype
                folder.mkdir()
                others = cpu_peers.find(peer.model, dtype, threads, folder, peers_path, log)
                for other in others:
                    other.run(prompt, 2)
            turns: list[_Turn] = []
            for number in range(repeats):
                log(f"bench: {model} {dtype}: turn {number + 1} of {repeats}")
                bandwidth = core().measure_read_bandwidth(threads)
                timing = llm.generate(prompt, params)[0].timing
                turns.append(
                    _Turn(
                        floor=weight_bytes / bandwidth,
                        decode=1 / timing.decode_tok_s,
                        prefill=timing.prefill_s,
                        decode_peer=peer.decode(prompt, min(decode_tokens, 16)) if peer else None,
                        prefill_peer=peer.prefill(prompt) if peer else None,
                        others={other.name: other.run(prompt, decode_tokens) for other in others},
                    )
                )
            rows += _rows(f"{model} {dtype}", turns, weight_bytes, prompt_tokens)
    return rows
