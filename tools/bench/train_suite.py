"""Training: tokens a second and the share of the GPU's peak, beside a loop of plain torch.

Both train GPT-2's 124M shape on random tokens in bf16 autocast, compiled, with fused AdamW and clipped gradients, and
take turns of some steps each in one process; medians are reported. Operations are counted as 6 a parameter and token,
and 12 * layers * width * context a token for attention (Chowdhery et al., PaLM, appendix B).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.bench.commit import source_commit
from tools.bench.kernel_results import spec_for
from tools.bench.kernels_suite import DEVICE_SPECS, TOP, NoGpuError, describe_machine, words

OURS = "ours"
PEER = "torch"
VARIANTS = (OURS, PEER)
_TRAINING: dict[str, dict[str, Any]] = {  # by variant of ours, what differs from the defaults below
    OURS: {},
    "ours-fp16": {"amp_dtype": "fp16"},
    "ours-qat": {"qat": "int8"},
}
_KNOWN = (PEER, *_TRAINING)
LOSS_EVERY = 10  # steps between reading the loss, on both sides


@dataclass(frozen=True)
class Options:
    preset: str = "small"
    batch_size: int = 32
    seq_len: int = 1024
    steps: int = 20  # of a turn
    repeats: int = 7
    variants: list[str] = field(default_factory=lambda: list(VARIANTS))
    profile: Path | None = None  # where torch.profiler's table of our kernels goes
    device: str = "cuda"
    commit: str = "unknown"


@dataclass(frozen=True)
class Row:
    """One variant's figures."""

    variant: str
    tokens_per_s: float
    step_ms: float
    tflop_per_s: float
    peak_share: float | None  # of the device spec's rate for bf16; None without a spec
    first_steps_s: float  # the compiler's time, mostly
    peak_memory_gib: float | None


def run(options: Options, log: Callable[[str], None]) -> tuple[dict[str, Any], list[Row]]:
    """Measures; the machine, and a row a variant.

    Raises:
        NoGpuError: device is cuda and this machine has none.
        ValueError: there is no variant of a name.
    """
    if unknown := [name for name in options.variants if name not in _KNOWN]:
        raise ValueError(f"there is no variant {unknown[0]!r}: expected {', '.join(_KNOWN)}")
    on_gpu = options.device == "cuda"
    machine = describe_machine(options.commit, "the train suite") if on_gpu else {"device": "cpu"}
    import torch

    from flashflow.models.config import GptSmallConfig

    shape = GptSmallConfig.preset(options.preset)
    first_steps: dict[str, float] = {}
    memory: dict[str, float | None] = {}
    steps: dict[str, Step] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.variants:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            if name == PEER:
                steps[name] = _peer(options, shape)
            else:
                steps[name] = _ours(options, shape, Path(folder), _TRAINING[name])
            first_steps[name] = _seconds(steps[name], 3, on_gpu)
            memory[name] = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
            log(f"{name}: the first steps took {first_steps[name]:.1f} s")
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(options.repeats):
            for name, step in steps.items():
                times[name].append(_seconds(step, options.steps, on_gpu) / options.steps)
            log(f"turn {turn + 1}: " + ", ".join(f"{name} {1e3 * times[name][-1]:.2f} ms" for name in steps))
        if options.profile and OURS in steps:
            options.profile.write_text(_profile(steps[OURS]))
    spec = spec_for(str(machine["device"]), DEVICE_SPECS)
    tokens = options.batch_size * options.seq_len
    attention = 12 * shape.n_layers * shape.hidden_size * options.seq_len
    tflop = (6 * shape.parameter_count() + attention) * tokens / 1e12
    rows = []
    for name in options.variants:
        seconds = statistics.median(times[name])
        share = tflop / seconds / spec.tflop_per_s["bf16"] if spec else None
        rows.append(Row(name, tokens / seconds, 1e3 * seconds, tflop / seconds, share, first_steps[name], memory[name]))
    return {**machine, "batch": f"{options.batch_size} x {options.seq_len}", "preset": options.preset}, rows


Step = Callable[[], object]


def _tokens(shape: Any, options: Options) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, shape.vocab_size, 1 << 22).astype(np.uint16)


def _ours(options: Options, shape: Any, folder: Path, training: dict[str, Any]) -> Step:
    """The steps of `train --compile --amp-dtype bf16 --log-every 10`, or of another training."""
    import torch

    from flashflow.models.gpt_small import GptSmall
    from flashflow.quantization.qat import prepare_qat
    from flashflow.training.config import TrainConfig
    from flashflow.training.data import Dataset
    from flashflow.training.trainer import Trainer

    config = TrainConfig(
        **{
            "preset": options.preset,
            "batch_size": options.batch_size,
            "seq_len": options.seq_len,
            "lr": 6e-4,
            "amp_dtype": "bf16",
            "compile": options.device == "cuda",
            "device": options.device,
            "steps": 10**6,
            **training,
        }
    )
    torch.manual_seed(0)
    data = Dataset.split(_tokens(shape, options), options.seq_len)
    model = GptSmall(shape)
    if config.qat:
        prepare_qat(model)
    trainer = Trainer(model, data, config, folder, lambda folder, weights: None, "")

    def step() -> object:
        trainer.train_step()
        return trainer.read_metrics() if trainer.step % LOSS_EVERY == 0 else None

    return step


def _peer(options: Options, shape: Any) -> Step:
    import numpy as np
    import torch
    from tools.bench.torch_gpt_training import TorchGpt, make_step

    from flashflow.training.data import Dataset

    torch.manual_seed(0)
    data = Dataset.split(_tokens(shape, options), options.seq_len)
    counter = iter(range(10**9))

    def batch() -> tuple[Any, Any]:
        parts = data.train_batch(0, next(counter), options.batch_size)
        inputs, targets = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
        return inputs, targets

    model = TorchGpt(shape.n_layers, shape.n_heads, shape.hidden_size, shape.context_length)
    return make_step(model, batch, options.device)


def _seconds(step: Step, count: int, on_gpu: bool) -> float:
    import torch

    began = time.perf_counter()
    for _ in range(count):
        step()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _profile(step: Step) -> str:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(3):
            step()
        torch.cuda.synchronize()
    return str(profiler.key_averages().table(sort_by="cuda_time_total", row_limit=60, max_name_column_width=100))


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| | tokens/s | step, ms | TFLOP/s | of peak | first steps, s | peak memory, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = "-" if row.peak_share is None else f"{row.peak_share:.1%}"
        memory = "-" if row.peak_memory_gib is None else f"{row.peak_memory_gib:.1f}"
        lines.append(
            f"| {row.variant} | {row.tokens_per_s:,.0f} | {row.step_ms:.2f} | {row.tflop_per_s:.0f} | {share} "
            f"| {row.first_steps_s:.0f} | {memory} |"
        )
    return "\n".join(lines)


def run_command(options: Options, json_out: Path | None) -> int:
    """Measures and prints. Gives the exit status: 2, with one sentence on stderr, where it cannot."""
    try:
        machine, rows = run(options, lambda line: print(line, file=sys.stderr, flush=True))
        if json_out:
            json_out.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1))
    except (NoGpuError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(" · ".join(f"{key} {value}" for key, value in machine.items()) + "\n")
    print(table(rows))
    return 0


def main(argv: list[str] | None = None) -> int:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="train_suite", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", default=defaults.preset, help="tiny, mini or small")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--seq-len", type=int, default=defaults.seq_len)
    parser.add_argument("--steps", type=int, default=defaults.steps, help="of a turn")
    parser.add_argument("--repeats", type=int, default=defaults.repeats, help="turns; medians are reported")
    parser.add_argument(
        "--variants", type=words, default=defaults.variants, help=f"some of {PEER},{','.join(_TRAINING)}"
    )
    parser.add_argument("--profile", type=Path, help="also write torch.profiler's table of our kernels to this file")
    parser.add_argument("--device", default=defaults.device, choices=("cuda", "cpu"), help="cpu: eager, to try it")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    args = vars(parser.parse_args(argv))
    json_out = args.pop("json")
    return run_command(Options(**args, commit=source_commit(TOP)), json_out)


if __name__ == "__main__":
    sys.exit(main())
