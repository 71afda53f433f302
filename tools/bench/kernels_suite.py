"""The kernels suite: ours beside their peers and their floors on this machine's GPU.

    python3 -m tools.bench.kernels_suite [--kernels attention,mlp] [--shapes 8192x768] [--json report.json]

runs it without Bazel (in the GPU bundle, or beside a library built by hand); `bazel run //tools:bench -- --suite
kernels` takes the same options.
"""

import argparse
import datetime
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.bench.commit import source_commit
from tools.bench.kernel_charts import NoChartsError, draw
from tools.bench.kernel_page import page
from tools.bench.kernel_results import Report, Result, Timing, Variant, spec_for, summarize, tables

TOP = Path(__file__).parents[2]  # the repository, its runfiles, or the unpacked bundle
LIBRARY = TOP / "kernels/cuda/libflashflow_kernels.so"
DEVICE_SPECS = TOP / "compiler/analysis/data"


class NoGpuError(RuntimeError):
    """This machine cannot run the suite; one sentence says why."""


@dataclass(frozen=True)
class Options:
    library: Path = LIBRARY
    compare: list[Path] = field(default_factory=list)  # other builds of the library: variants named by their stems
    kernels: list[str] = field(default_factory=list)  # all where empty
    shapes: list[str] = field(default_factory=list)  # parts of shapes' names; all where empty
    repeats: int = 21
    without: list[str] = field(default_factory=list)  # variants to leave out
    commit: str = "unknown"


def nvidia_smi(fields: str) -> list[str]:
    """What the driver says of the first GPU, a value a field; empty without one."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [value.strip() for value in done.stdout.strip().split(",")] if done.returncode == 0 else []


def clocks() -> str:
    """Clocks and power as they are now, in the driver's words."""
    names = ("SM", "memory", "power", "of")
    values = nvidia_smi("clocks.sm,clocks.mem,power.draw,power.limit")
    return " ".join(f"{name} {value}" for name, value in zip(names, values, strict=False)) or "unknown"


def describe_machine(commit: str, suite: str = "the kernels suite") -> dict[str, Any]:
    """The facts that figures depend on. Raises NoGpuError where torch sees no GPU."""
    try:
        import torch
    except ImportError as error:
        raise NoGpuError(f"{suite} needs torch with CUDA, and there is no torch here") from error
    if not torch.cuda.is_available():
        raise NoGpuError(f"{suite} needs an NVIDIA GPU, and torch finds none on this machine")
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = "none"
    return {
        "device": torch.cuda.get_device_name(),
        "capability": ".".join(str(part) for part in torch.cuda.get_device_capability()),
        "driver": (nvidia_smi("driver_version") or ["unknown"])[0],
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),
        "torch": torch.__version__,
        "triton": triton,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit,
    }


def run(options: Options, log: Callable[[str], None]) -> Report:
    """Measures what the options name.

    Raises:
        NoGpuError: this machine cannot.
        ValueError: the options name no case.
    """
    machine = describe_machine(options.commit)
    if not options.library.is_file():
        raise NoGpuError(f"there is no library of kernels at {options.library}")
    import torch
    from kernels.bench import timing
    from kernels.bench.families import select
    from kernels.bench.library import Library

    libraries = {"ours": Library(options.library)} | {path.stem: Library(path) for path in options.compare}
    cases = select(libraries, options.kernels, options.shapes)
    spec = spec_for(machine["device"], DEVICE_SPECS)
    machine["spec"] = spec.name if spec else "none: no floors"
    machine["clocks before"] = clocks()
    results = []
    for number, case in enumerate(cases, 1):
        try:
            times = timing.measure(case, options.repeats, log, lambda variant: variant not in options.without)
        except RuntimeError as error:  # such as an illegal access: CUDA can do nothing more in this process
            machine["ended early"] = (
                f"{case.kernel} {case.shape}: {(str(error).strip() or repr(error)).splitlines()[0]}"
            )
            log(f"ended early at {machine['ended early']}")
            break
        roles = (
            dict.fromkeys(case.ours, "ours") | dict.fromkeys(case.peers, "peer") | dict.fromkeys(case.others, "other")
        )
        floor, bound = spec.floor(case.flops, case.bytes, case.dtype) if spec else (None, "memory")
        variants = {
            name: Variant(roles[name], {mode: summarize(us) for mode, us in modes.items()})
            for name, modes in times.items()
        }
        result = Result(case.kernel, case.shape, case.dtype, case.flops, case.bytes, floor, bound, variants)
        results.append(result)
        log(f"[{number}/{len(cases)}] {case.kernel} {case.shape}: {_progress(result)}")
        torch.cuda.empty_cache()
    machine["clocks after"] = clocks()
    return Report(machine, results)


def _progress(result: Result) -> str:
    def text(mode: str, timing: Timing) -> str:
        return f"{timing.us:.1f}" + ("" if mode == "cold" else f" ({mode})")

    return ", ".join(
        f"{name} " + " ".join(text(mode, timing) for mode, timing in variant.modes.items())
        for name, variant in result.variants.items()
    )


def list_cases(options: Options) -> str:
    """The cases that the options name, one a line. Needs torch, no GPU."""
    from kernels.bench.families import select
    from kernels.bench.library import Library

    chosen = select({"ours": Library(options.library)}, options.kernels, options.shapes)
    return "\n".join(f"{case.kernel:10} {case.shape:36} {', '.join(case.variants())}" for case in chosen)


def words(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


@dataclass(frozen=True)
class Outputs:
    """Where a run goes, beside the tables on stdout."""

    json: Path | None = None
    markdown: Path | None = None
    charts: Path | None = None  # a folder


def run_command(options: Options, outputs: Outputs, from_json: Path | None = None, only_list: bool = False) -> int:
    """What the command line does, in the order: measure (or read `from_json`), write, print. Gives the exit status.

    1 where a kernel's failure ended the run early: what was measured before is kept. 2, with one sentence on stderr,
    where this machine has no GPU or the options name no case.
    """
    try:
        if only_list:
            print(list_cases(options))
            return 0
        if from_json:
            report = Report.from_json(from_json.read_text())
        else:
            report = run(options, lambda line: print(line, file=sys.stderr, flush=True))
        if outputs.json:
            outputs.json.write_text(report.to_json())
        if outputs.markdown:
            outputs.markdown.write_text(page(report))
        print(" · ".join(f"{key} {value}" for key, value in report.machine.items()) + "\n")
        print(tables(report.results))
        if outputs.charts:
            spec = spec_for(str(report.machine.get("device", "")), DEVICE_SPECS)
            for path in draw(report, spec, outputs.charts):
                print(f"wrote {path}", file=sys.stderr)
    except (NoGpuError, NoChartsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if "ended early" in report.machine else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kernels_suite", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--library", type=Path, default=LIBRARY, help="the kernels' shared library")
    parser.add_argument("--compare", type=Path, action="append", default=[], help="another build of it; repeatable")
    parser.add_argument("--kernels", type=words, default=[], help="families, with commas; all where none is named")
    parser.add_argument("--shapes", type=words, default=[], help="parts of shapes' names, with commas")
    parser.add_argument("--without", type=words, default=[], help="variants to leave out: inductor,eager")
    parser.add_argument("--repeats", type=int, default=Options.repeats, help="rounds; medians are reported")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--from-json", type=Path, help="take this report of an earlier run; measure nothing")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    parser.add_argument("--markdown", type=Path, help="also write docs/performance.md's page to this file")
    parser.add_argument("--charts", type=Path, help="also draw charts into this folder (needs matplotlib)")
    args = parser.parse_args(argv)
    options = Options(
        args.library, args.compare, args.kernels, args.shapes, max(1, args.repeats), args.without, source_commit(TOP)
    )
    return run_command(options, Outputs(args.json, args.markdown, args.charts), args.from_json, args.list)


if __name__ == "__main__":
    sys.exit(main())
