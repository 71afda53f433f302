"""The decode and prefill suites: whole models, ours beside torch, on this machine's GPU.

    python3 -m tools.bench.engine_suite [--suite decode,prefill,cold] [--models gpt2-124m] [--batches 1,8] [--json F]

runs them without Bazel (in the GPU bundle); `bazel run //tools:bench -- --suite decode,prefill` takes the same options.
Ours runs in a process of its own, through the engine's own loop: its times are what a caller waits, the peers' are
those of the GPU alone. All of a row's variants take turns in one run.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.bench.cold_start import cold_start
from tools.bench.commit import source_commit
from tools.bench.decoder_shape import SHAPES, DecoderShape
from tools.bench.engine_page import MODE, page, tables
from tools.bench.engine_process import EngineBuild, EngineProcess
from tools.bench.json_process import ProcessError
from tools.bench.kernel_charts import NoChartsError, bars
from tools.bench.kernel_results import DeviceSpec, Report, Result, Variant, spec_for, summarize
from tools.bench.kernels_suite import DEVICE_SPECS, TOP, NoGpuError, clocks, describe_machine, words

SUITES = ("decode", "prefill", "cold")
TOKENS = 32  # decoded in a turn, around the row's context
PREFILLS = ((1, 128), (1, 1016), (8, 1016), (32, 1016))  # batch and length; room for tokens after the prompt
GRAPHS = TOP / "tools/bench/graphs"
PROGRAMS = TOP / "runtime/api"


@dataclass(frozen=True)
class Options:
    suites: list[str] = field(default_factory=lambda: ["decode", "prefill"])
    models: list[str] = field(default_factory=lambda: list(SHAPES))
    batches: list[int] = field(default_factory=lambda: [1, 8, 64])  # of decoding
    contexts: list[int] = field(default_factory=lambda: [128, 512, 1000])
    prefills: list[tuple[int, int]] = field(default_factory=lambda: list(PREFILLS))  # batch and length
    without: list[str] = field(
        default_factory=list
    )  # beginnings of variants' names: eager, inductor products, invariant, int8
    compile_only: bool = False  # the peers, into Inductor's cache; several processes can share the work
    repeats: int = 7
    device: str = "cuda"
    dtype: str = "bf16"
    programs: Path = PROGRAMS  # the folder of random_engine and time_engine
    graphs: Path = GRAPHS
    engines: Path | None = None  # a folder that keeps the engines, for later runs; else they are made for this one
    commit: str = "unknown"

    @property
    def times_int8(self) -> bool:
        """Whether each row also has the same model in int8, to see that it is never slower."""
        return self.dtype == "bf16" and "int8" not in self.without


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    suite: str
    shape: DecoderShape
    batch: int
    tokens: int  # the context of decoding, a prompt's length of prefill

    @property
    def title(self) -> str:
        what = "context" if self.suite == "decode" else "prompts of"
        return f"batch {self.batch}, {what} {self.tokens}"


def rows(options: Options) -> list[Row]:
    """What the options name, models one after another. Raises ValueError for an unknown suite or model."""
    for name, names, known in (("suite", options.suites, SUITES), ("model", options.models, tuple(SHAPES))):
        if unknown := [word for word in names if word not in known]:
            raise ValueError(f"there is no {name} {unknown[0]!r}: expected {', '.join(known)}")
    found = []
    for model in options.models:
        shape = SHAPES[model]
        if "decode" in options.suites:
            found += [Row("decode", shape, batch, context) for batch in options.batches for context in options.contexts]
        if "prefill" in options.suites:
            found += [Row("prefill", shape, batch, tokens) for batch, tokens in options.prefills]
    return found


Turn = Callable[[], float]  # microseconds of a step, or of reading the prompts


def _ours(row: Row, process: EngineProcess) -> Turn:
    def prefill() -> float:
        # The first also pays for the GPU's change from the process of the variant before, which the peers' events, on
        # the GPU, do not see.
        return 1e3 * [process.time(row.tokens, 1) for _ in range(2)][1]["prefill_ms"]

    if row.suite == "prefill":
        return prefill
    return lambda: process.time(max(1, row.tokens - TOKENS // 2), TOKENS + 1)["decode_us"]


def _torch_turn(step: Callable[[], object], before: Callable[[], object], steps: int, graph: bool) -> Turn:
    """Times `steps` steps between two events, each launched anew or replayed as a CUDA graph."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        before()
        step()
        step()
    side.synchronize()
    if graph:
        before()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            step()
        run: Callable[[], object] = captured.replay
    else:
        run = step

    def turn() -> float:
        before()
        start.record()
        for _ in range(steps):
            run()
        end.record()
        end.synchronize()
        return 1e3 * float(start.elapsed_time(end)) / steps

    return turn


def _generate_turn(row: Row, model: Any) -> Turn:
    """transformers.generate: what its tokens after the first take, each."""
    import time

    import torch

    ids = torch.randint(0, row.shape.vocab_size, (row.batch, row.tokens - TOKENS // 2), device="cuda")

    def seconds(tokens: int) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        model.generate(ids, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0)
        torch.cuda.synchronize()
        return time.perf_counter() - started

    return lambda: 1e6 * (seconds(TOKENS // 4 + 1) - seconds(1)) / (TOKENS // 4)


def _transformers_model(shape: DecoderShape) -> Any:
    """A model of transformers with weights of its own, in bf16 on the GPU."""
    import torch
    import transformers

    common = {"vocab_size": shape.vocab_size, "bos_token_id": 0, "eos_token_id": None}
    with torch.device("cuda"):
        if shape.gated:
            config = transformers.LlamaConfig(
                hidden_size=shape.hidden_size,
                intermediate_size=shape.mlp_size,
                num_hidden_layers=shape.n_layers,
                num_attention_heads=shape.n_heads,
                num_key_value_heads=shape.n_kv_heads,
                head_dim=shape.head_dim,
                max_position_embeddings=shape.context_length,
                tie_word_embeddings=True,
                **common,
            )
            return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
        config = transformers.GPT2Config(
            n_embd=shape.hidden_size, n_layer=shape.n_layers, n_head=shape.n_heads, **common
        )
        return transformers.GPT2LMHeadModel(config).to(torch.bfloat16).eval()


class _Peers:
    """The torch variants of one model; made once, as compiling takes long."""

    def __init__(self, shape: DecoderShape, without: list[str], log: Callable[[str], None]) -> None:
        import torch
        from tools.bench.torch_decoder import TorchDecoder

        self._log, self._without = log, without
        dtype = torch.bfloat16
        self._eager = TorchDecoder(shape, dtype, "cuda", compiled=False)
        self._compiled = {
            attention: TorchDecoder(shape, dtype, "cuda", compiled=True, attention=attention)
            for attention in ("sdpa", "products")
        }
        self._generate: Any = None

    def turns(self, row: Row) -> dict[str, Turn]:
        makers = self._decode(row) if row.suite == "decode" else self._prefill(row)
        found = {}
        for name, make in makers.items():
            if any(name.startswith(word) for word in self._without):
                continue
            try:
                found[name] = make()
            except Exception as error:  # torch, Triton and transformers raise whatever they raise
                lines = str(error).strip().splitlines() or [type(error).__name__]
                self._log(f"{row.shape.name} {row.title}: {name} left out: {lines[0][:200]}")
        return found

    def _decode(self, row: Row) -> dict[str, Callable[[], Turn]]:
        def decoding(model: Any, slots: int, graph: bool) -> Callable[[], Turn]:
            def make() -> Turn:
                state = model.decoder(row.batch, row.tokens, slots)
                return _torch_turn(state.step, state.rewind, TOKENS // 2, graph)

            return make

        trimmed = row.tokens + TOKENS // 2
        full = row.shape.context_length
        makers = {
            f"inductor {attention} {slots}": decoding(model, slots, graph=True)
            for attention, model in self._compiled.items()
            for slots in dict.fromkeys((trimmed, full))
        }
        makers["eager"] = decoding(self._eager, trimmed, graph=False)
        if row.tokens == 512:
            makers["generate"] = lambda: self._generated(row)
        return makers

    def _generated(self, row: Row) -> Turn:
        self._generate = self._generate or _transformers_model(row.shape)
        return _generate_turn(row, self._generate)

    def _prefill(self, row: Row) -> dict[str, Callable[[], Turn]]:
        import torch

        ids = torch.randint(0, row.shape.vocab_size, (row.batch, row.tokens), device="cuda")

        def reading(model: Any, graph: bool) -> Callable[[], Turn]:
            return lambda: _torch_turn(lambda: model.prefill(ids), lambda: None, 2, graph)

        return {"inductor": reading(self._compiled["sdpa"], True), "eager": reading(self._eager, False)}


def measure_row(
    row: Row, turns: dict[str, tuple[str, Turn]], spec: DeviceSpec | None, dtype: str, repeats: int
) -> Result:
    """Times the variants in turn. `turns`: by name, the role and what times one turn; the first call is not counted."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for repeat in range(repeats + 1):
        for name, (_, turn) in turns.items():
            us = turn()
            if repeat:
                times[name].append(us)
    cost = row.shape.decode_cost if row.suite == "decode" else row.shape.prefill_cost
    flops, size = cost(row.batch, row.tokens, 4 if dtype == "f32" else 2, 1 if dtype == "int8" else None)
    floor, bound = spec.floor(flops, size, "i8" if dtype == "int8" else dtype) if spec else (None, "memory")
    variants = {name: Variant(role, {MODE: summarize(times[name])}) for name, (role, _) in turns.items()}
    kernel = f"{row.suite}, {row.shape.name}"
    return Result(kernel, row.title, dtype, flops, size, floor, bound, variants)


@contextmanager
def _engines(options: Options, folder: Path) -> Iterator[Callable[[str, str], Path]]:
    """Builds the engines that the folder lacks, in the background; gives what waits for a model's of a dtype.

    They are MODEL.ff, and MODEL-int8.ff where int8 is beside the dtype of the options.
    """

    def path(model: str, dtype: str) -> Path:
        return folder / (f"{model}.ff" if dtype == options.dtype else f"{model}-{dtype}.ff")

    builds = {
        path(model, dtype): EngineBuild(options.programs, options.graphs / f"{model}.json", path(model, dtype), dtype)
        for model in options.models
        for dtype in (options.dtype, *(("int8",) if options.times_int8 else ()))
        if not path(model, dtype).exists()
    }

    def wait(model: str, dtype: str) -> Path:
        engine = path(model, dtype)
        return builds[engine].wait() if engine in builds else engine

    try:
        yield wait
    finally:
        for build in builds.values():
            build.stop()


def run(options: Options, log: Callable[[str], None], keep: Callable[[Report], object] = lambda report: None) -> Report:
    """Measures what the options name; gives `keep` what there is after each row.

    Raises:
        NoGpuError: this machine cannot.
        ProcessError: our engine fails.
        ValueError: the options name an unknown suite or model.
    """
    named = rows(options)
    on_gpu = options.device != "cpu"
    machine = (
        describe_machine(options.commit, "a benchmark of whole models")
        if on_gpu
        else {"device": "CPU", "commit": options.commit}
    )
    for program in ("random_engine", "time_engine"):
        if not (options.programs / program).is_file():
            raise NoGpuError(f"there is no {program} in {options.programs}")
    if options.compile_only:
        for model in options.models:
            peers = _Peers(SHAPES[model], [*options.without, "eager", "generate"], log)
            for row in named:
                if row.shape.name == model:
                    peers.turns(row)
        return Report(machine, [])
    spec = spec_for(machine["device"], DEVICE_SPECS)
    machine |= {"spec": spec.name if spec else "none: no floors", "clocks before": clocks()}
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory() as temporary,
        _engines(options, options.engines or Path(temporary)) as engine_of,
    ):
        for model in options.models:
            peers = _Peers(SHAPES[model], options.without, log) if on_gpu else None
            for batch in dict.fromkeys(row.batch for row in named if row.shape.name == model):
                mine = [row for row in named if row.shape.name == model and row.batch == batch]
                for result in _measure_batch(mine, options, engine_of, peers, spec, log):
                    results.append(result)
                    keep(Report(machine, results))
            if "cold" in options.suites:
                results += cold_start(
                    model, engine_of(model, options.dtype), options.programs, options.device, options.repeats
                )
            del peers
            if on_gpu:
                import torch

                torch._dynamo.reset()
                torch.cuda.empty_cache()
    machine["clocks after"] = clocks()
    return Report(machine, sorted(results, key=lambda result: result.kernel.split(",")[0]))


def _measure_batch(
    mine: list[Row],
    options: Options,
    engine_of: Callable[[str, str], Path],
    peers: _Peers | None,
    spec: DeviceSpec | None,
    log: Callable[[str], None],
) -> Iterator[Result]:
    """The rows of one model at one batch, which share our processes."""

    def start(dtype: str, *flags: str) -> EngineProcess:
        engine = engine_of(mine[0].shape.name, dtype)
        return EngineProcess(options.programs, engine, options.device, mine[0].batch, flags)

    processes = {"ours": start(options.dtype)}
    try:
        if options.times_int8:
            processes["int8"] = start("int8")
        if "invariant" not in options.without:
            processes["invariant"] = start(options.dtype, "--batch_invariant")
        for row in mine:
            turns = {name: ("ours", _ours(row, process)) for name, process in processes.items()}
            for name, turn in (peers.turns(row) if peers else {}).items():
                turns[name] = ("peer", turn)
            result = measure_row(row, turns, spec, options.dtype, options.repeats)
            said = ", ".join(f"{name} {v.modes[MODE].us:.0f}" for name, v in result.variants.items())
            log(f"{result.kernel}, {result.shape}: {said} us")
            yield result
    finally:
        for process in processes.values():
            process.close()


@dataclass(frozen=True)
class Outputs:
    """Where a run goes, beside the tables on stdout."""

    json: Path | None = None
    markdown: Path | None = None
    charts: Path | None = None  # a folder

    def keep(self, report: Report) -> None:
        """Writes the report's file: also of a run under way, which may be ended from outside."""
        if self.json:
            self.json.write_text(report.to_json())


def run_command(options: Options, outputs: Outputs, from_json: Path | None = None) -> int:
    """Measures, or reads `from_json`; writes, prints. Gives the exit status: 2, with a sentence, where it cannot."""
    try:
        if from_json:
            report = Report.from_json(from_json.read_text())
        else:
            report = run(options, lambda line: print(line, file=sys.stderr, flush=True), outputs.keep)
        outputs.keep(report)
        if outputs.markdown:
            outputs.markdown.write_text(page(report))
        print(" · ".join(f"{key} {value}" for key, value in report.machine.items()) + "\n")
        print(tables(report.results))
        if outputs.charts:
            print(f"wrote {bars(report, MODE, outputs.charts / 'engine.png')}", file=sys.stderr)
    except (NoGpuError, NoChartsError, ProcessError, ValueError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def numbers(text: str) -> list[int]:
    """The numbers, at least 1, of a list with commas. Raises ValueError for others."""
    found = [int(word) for word in words(text)]
    if any(number < 1 for number in found):
        raise ValueError(f"{text!r} has a number below 1")
    return found


def prefills(text: str) -> list[tuple[int, int]]:
    """Batches and lengths of "1x128,8x1016". Raises ValueError for others."""
    found = []
    for word in words(text):
        batch, tokens = (int(number) for number in word.split("x"))
        if min(batch, tokens) < 1:
            raise ValueError(f"{word!r} has a number below 1")
        found.append((batch, tokens))
    return found


def main(argv: list[str] | None = None) -> int:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="engine_suite", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", type=words, default=defaults.suites, help="decode,prefill,cold")
    parser.add_argument("--models", type=words, default=defaults.models, help=",".join(SHAPES))
    parser.add_argument("--batches", type=numbers, default=defaults.batches, help="of decoding: 1,8,64")
    parser.add_argument("--contexts", type=numbers, default=defaults.contexts, help="of decoding: 128,512,1000")
    parser.add_argument("--prefills", type=prefills, default=defaults.prefills, help="1x128,32x1016: batch and length")
    parser.add_argument("--compile-only", action="store_true", help="fill Inductor's cache with the peers; no timing")
    parser.add_argument("--without", type=words, default=[], help="variants: int8, invariant, eager, inductor, ...")
    parser.add_argument("--repeats", type=int, default=defaults.repeats, help="rounds; medians are reported")
    parser.add_argument("--device", default=defaults.device, help="of ours; cpu leaves the peers out")
    parser.add_argument("--dtype", default=defaults.dtype, choices=("bf16", "f32", "int8"))
    parser.add_argument("--programs", type=Path, default=PROGRAMS, help="the folder of random_engine and time_engine")
    parser.add_argument("--graphs", type=Path, default=GRAPHS, help="the folder of the models' graphs")
    parser.add_argument("--engines", type=Path, help="a folder that keeps the engines from run to run")
    parser.add_argument("--from-json", type=Path, help="take this report of an earlier run; measure nothing")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    parser.add_argument("--markdown", type=Path, help="also write docs/performance_models.md's page to this file")
    parser.add_argument("--charts", type=Path, help="also draw a chart into this folder (needs matplotlib)")
    args = parser.parse_args(argv)
    options = Options(
        args.suite,
        args.models,
        args.batches,
        args.contexts,
        args.prefills,
        args.without,
        args.compile_only,
        max(1, args.repeats),
        args.device,
        args.dtype,
        args.programs,
        args.graphs,
        args.engines,
        source_commit(TOP),
    )
    return run_command(options, Outputs(args.json, args.markdown, args.charts), args.from_json)


if __name__ == "__main__":
    sys.exit(main())
