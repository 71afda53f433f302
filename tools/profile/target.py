"""Which case of the kernels' benchmark to profile: shared by the profilers' commands."""

import argparse
import os
import sys
from pathlib import Path

from kernels.bench.case import Case
from kernels.bench.families import select
from kernels.bench.library import Library
from tools.bench.kernels_suite import LIBRARY
from tools.profile.find_tool import find_tool


class CannotProfileError(RuntimeError):
    """One sentence that says why not, and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel-name", required=True, help="the kernel's family: fused_mlp (or mlp), attention ...")
    parser.add_argument("--bench", default="", help="part of the shape's name; the first shape by default")
    parser.add_argument("--variant", default="ours", help="ours, or another variant of the case, such as cublaslt")
    parser.add_argument("--library", type=Path, default=LIBRARY, help="the kernels' shared library")


def find_case(kernel_name: str, bench: str, variant: str) -> Case:
    """The first case of the family with `bench` in its shape's name.

    Raises:
        CannotProfileError: there is none, or it has no such variant.
    """
    try:
        case = select({"ours": Library(LIBRARY)}, [kernel_name.removeprefix("fused_")], [bench] if bench else [])[0]
    except ValueError as error:
        raise CannotProfileError(str(error)) from error
    if variant not in case.variants():
        raise CannotProfileError(f"{case.shape} has no variant {variant!r}: expected {', '.join(case.variants())}")
    return case


def program(case: Case, variant: str, library: Path) -> list[str]:
    """The command that runs the case once for a profiler; with environment()."""
    words = ["--library", str(library.resolve()), "--kernel", case.kernel, "--shape", case.shape, "--variant", variant]
    return [sys.executable, "-m", "tools.profile.run_case", *words]


def environment() -> dict[str, str]:
    """This process's, with its import path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}


def find_profiler(name: str, product: str) -> str:
    """The profiler's path, also where it is installed and not on the PATH.

    Raises:
        CannotProfileError: it is not here; says how to get it.
    """
    found = find_tool(name)
    if not found:
        raise CannotProfileError(
            f"{name} is not on this machine: it is part of the CUDA toolkit, and of {product} from developer.nvidia.com"
        )
    return found
