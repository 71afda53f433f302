"""Tests and times everything in this bundle on this machine's GPU.

    python3 run.py [--out FOLDER] [--steps programs,python,bench,engine,ncu] [--sanitizer memcheck,racecheck] ...

Probes first, then runs the test programs, the Python tests and the benchmarks. FOLDER gets report.json, the
benchmarks' own reports (bench.json of kernels, engine.json of whole models), pages and charts, and a log of each step.
Exits 0 where all passed, 1 where something failed, 2 where there is no GPU; report.json is written in every case.
Needs nothing but the standard library itself.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.profile.find_tool import find_tool

TOP = Path(__file__).resolve().parent
STEPS = ("programs", "python", "bench", "engine", "ncu")
SKIPPED = 77  # what a test program exits with where the GPU is not one that it knows
TAIL = 2000


@dataclass(frozen=True)
class Step:
    """What ran. status: passed, failed, skipped or timed out."""

    name: str
    status: str
    seconds: float
    detail: str
    log: str = ""


def _output_of(command: list[str], timeout: float = 60) -> tuple[int, str]:
    """(status, stdout and stderr); status 127 where it cannot be run."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=timeout, cwd=TOP
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def gpu() -> str:
    """Name, driver and memory of the first GPU as the driver says them; empty without one."""
    fields = "--query-gpu=name,driver_version,memory.total,compute_cap"
    status, text = _output_of(["nvidia-smi", "--id=0", fields, "--format=csv,noheader"])
    return text.strip().splitlines()[0] if status == 0 and text.strip() else ""


def probe() -> dict[str, str]:
    """The facts of this machine that the steps depend on."""
    packages = ("torch", "triton", "numpy", "pytest", "matplotlib")
    found = {
        "gpu": gpu() or "none: nvidia-smi finds none",
        "python": platform.python_version(),
        "os": platform.platform(terse=True),
        "libc": " ".join(platform.libc_ver()),
    } | {package: _version(package) for package in packages}
    for tool in ("ncu", "compute-sanitizer"):
        found[tool] = find_tool(tool) or "missing"
    return found


def programs() -> list[Path]:
    """The compiled tests."""
    found = [*TOP.glob("kernels/**/*_test_program"), *TOP.glob("runtime/**/*_test_program")]
    return sorted(path for path in found if path.is_file())


def python_tests() -> list[Path]:
    return sorted([*TOP.glob("kernels/**/*_test.py"), *TOP.glob("tools/**/*_test.py")])


def summarize_program(output: str) -> str:
    """What a test program's output says in a few words: of googletest's, or of lines "name: 3 checks, 0 failures"."""
    checks = re.findall(r"^\w+: (\d+) checks, (\d+) failures$", output, re.MULTILINE)
    if checks:
        return f"{sum(int(c) for c, _ in checks):,} checks, {sum(int(f) for _, f in checks)} failures"
    ran = re.search(r"^\[=+\] (\d+) tests? from .* ran", output, re.MULTILINE)
    if ran:
        failed = re.search(r"^\[  FAILED  \] (\d+) tests?, listed below", output, re.MULTILINE)
        return f"{ran.group(1)} tests, {failed.group(1) if failed else 0} failures"
    return (output.strip().splitlines() or ["no output"])[-1][:120]


def summarize_pytest(junit: Path) -> str:
    """The counts of pytest's report; empty where there is none."""
    try:
        suites = xml.etree.ElementTree.parse(junit).getroot().iter("testsuite")
    except (OSError, xml.etree.ElementTree.ParseError):
        return ""
    counts = {key: 0 for key in ("tests", "failures", "errors", "skipped")}
    for suite in suites:
        for key in counts:
            counts[key] += int(suite.get(key, 0))
    return ", ".join(f"{number:,} {key}" for key, number in counts.items())


class Runner:
    """Runs steps and keeps what they did."""

    def __init__(self, out: Path, timeout: float) -> None:
        self.out = out
        self.timeout = timeout
        self.steps: list[Step] = []
        environment = json.loads((TOP / "environment.json").read_text())
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(TOP), "PYTHONUNBUFFERED": "1"}

    def run(self, name: str, command: list[str], follow: bool = False) -> tuple[int, str]:
        """Runs a command in the bundle's folder, its output into a log; `follow` shows stderr as it comes.

        Gives the exit status (124 past the timeout) and the output.
        """
        print(f"--- {name}", flush=True)
        log = self.out / f"{re.sub('[^a-zA-Z0-9]+', '_', name)}.log"
        with log.open("wb") as file:
            try:
                status = subprocess.run(
                    command,
                    stdout=file,
                    stderr=None if follow else subprocess.STDOUT,
                    env=self._environment,
                    cwd=TOP,
                    check=False,
                    timeout=self.timeout,
                ).returncode
            except subprocess.TimeoutExpired:
                status = 124
            except OSError as error:
                file.write(str(error).encode())
                status = 127
        return status, log.read_text(errors="replace")

    def add(self, name: str, status: int, seconds: float, detail: str, output: str) -> None:
        word = {0: "passed", SKIPPED: "skipped", 124: "timed out"}.get(status, "failed")
        if status < 0:
            detail = f"ended by signal {-status}; {detail}"
        self.steps.append(Step(name, word, round(seconds, 1), detail, "" if status == 0 else output[-TAIL:]))
        print(f"    {word} in {seconds:.1f} s: {detail}", flush=True)

    def programs(self) -> None:
        for program in programs():
            started = time.monotonic()
            status, output = self.run(program.stem.removesuffix("_program"), [str(program)])
            self.add(
                program.name.removesuffix("_program"),
                status,
                time.monotonic() - started,
                summarize_program(output),
                output,
            )

    def sanitizer(self, tools: list[str], words: list[str]) -> None:
        """`words` go to the programs that take names of suites (kernels_test)."""
        sanitizer = find_tool("compute-sanitizer")
        for tool in tools:
            for program in programs():
                name = f"{tool} {program.name.removesuffix('_program')}"
                if not sanitizer:
                    self.add(name, SKIPPED, 0, "compute-sanitizer is not here: it comes with the CUDA toolkit", "")
                    continue
                started = time.monotonic()
                extra = words if program.name.startswith("kernels_test") else []
                command = [sanitizer, "--tool", tool, "--error-exitcode", "1", str(program), *extra]
                status, output = self.run(name, command)
                found = re.findall(r"^========= ((?:ERROR|RACECHECK) SUMMARY: .*)$", output, re.MULTILINE)
                if "not supported" in output and status != 0:
                    status, found = SKIPPED, ["compute-sanitizer does not support this host"]
                self.add(
                    name, status, time.monotonic() - started, found[-1] if found else summarize_program(output), output
                )

    def python(self) -> None:
        if _version("pytest") == "missing":
            self.add("pytest", SKIPPED, 0, "pytest is not installed", "")
            return
        started = time.monotonic()
        junit = self.out / "pytest.xml"
        options = ["-q", "-p", "no:cacheprovider", "--rootdir=.", "--import-mode=importlib", f"--junitxml={junit}"]
        tests = [str(path.relative_to(TOP)) for path in python_tests()]
        status, output = self.run("pytest", [sys.executable, "-m", "pytest", *options, *tests])
        self.add(
            "pytest", status, time.monotonic() - started, summarize_pytest(junit) or summarize_program(output), output
        )

    def bench(self, words: list[str]) -> dict[str, Any] | None:
        """The kernels."""
        return self._suite("bench", "tools.bench.kernels_suite", "performance.md", words)

    def engine(self, words: list[str]) -> dict[str, Any] | None:
        """Whole models: builds engines with random weights here."""
        words = words or ["--suite", "decode,prefill,cold", "--models", "gpt2-124m", "--contexts", "512"]
        return self._suite("engine", "tools.bench.engine_suite", "performance_models.md", words)

    def _suite(self, name: str, module: str, page: str, words: list[str]) -> dict[str, Any] | None:
        started = time.monotonic()
        report = self.out / f"{name}.json"
        command = [sys.executable, "-m", module, "--json", str(report)]
        command += ["--markdown", str(self.out / page), *words]
        if importlib.util.find_spec("matplotlib"):
            command += ["--charts", str(self.out / "charts")]
        status, output = self.run(name, command, follow=True)
        found: dict[str, Any] | None = json.loads(report.read_text()) if report.is_file() else None
        detail = f"{len(found['results'])} shapes" if found else summarize_program(output)
        self.add(name, status, time.monotonic() - started, detail, output)
        return found

    def ncu(self) -> None:
        """Whether the profiler reads counters here: one small case."""
        if not find_tool("ncu"):
            self.add("ncu", SKIPPED, 0, "ncu is not here: it comes with the CUDA toolkit (Nsight Compute)", "")
            return
        started = time.monotonic()
        command = [sys.executable, "-m", "tools.profile.ncu", "--kernel-name", "softmax", "--bench", "12288x1024"]
        status, output = self.run("ncu", command)
        self.add("ncu", status, time.monotonic() - started, summarize_program(output), output)


def table(steps: list[Step]) -> str:
    width = max((len(step.name) for step in steps), default=0)
    return "\n".join(f"{s.name:{width}}  {s.status:9}  {s.seconds:7.1f} s  {s.detail}" for s in steps)


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results (default: results)")
    parser.add_argument("--steps", type=words, default=list(STEPS), help=f"some of {','.join(STEPS)}; all by default")
    parser.add_argument("--sanitizer", type=words, default=[], help="also memcheck,racecheck,initcheck,synccheck")
    parser.add_argument("--sanitize", type=words, default=[], help="suites of kernels_test for it; all by default")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds that one step may take")
    parser.add_argument("--bench", default="", help='options of the benchmark: --bench="--kernels mlp --repeats 5"')
    parser.add_argument(
        "--engine", default="", help='options of that of models: --engine="--models gpt2-xl --batches 1"'
    )
    args = parser.parse_args(argv)
    unknown = [step for step in args.steps if step not in STEPS]
    if unknown:
        parser.error(f"--steps: there is no {unknown[0]!r}, expected {','.join(STEPS)}")
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    commit = (TOP / "COMMIT").read_text().strip()
    report: dict[str, Any] = {
        "format": 1,
        "commit": commit,
        "probe": probe(),
        "steps": [],
        "bench": None,
        "engine": None,
    }
    print("\n".join(f"{key}: {value}" for key, value in report["probe"].items()), flush=True)
    runner = Runner(out, args.timeout)
    has_gpu = not report["probe"]["gpu"].startswith("none")
    if has_gpu:
        if "programs" in args.steps:
            runner.programs()
        if "python" in args.steps:
            runner.python()
        if args.sanitizer:
            runner.sanitizer(args.sanitizer, args.sanitize)
        if "bench" in args.steps:
            report["bench"] = runner.bench(args.bench.split())
        if "engine" in args.steps:
            report["engine"] = runner.engine(args.engine.split())
        if "ncu" in args.steps:
            runner.ncu()
    report["steps"] = [asdict(step) for step in runner.steps]
    (out / "report.json").write_text(json.dumps(report, indent=1))
    if not has_gpu:
        print("no GPU: nothing was run")
        return 2
    print(table(runner.steps))
    return 0 if all(step.status in ("passed", "skipped") for step in runner.steps) else 1


if __name__ == "__main__":
    sys.exit(main())
