"""Profiles one case of the kernels' benchmark with Nsight Compute, and reads its counters back.

    bazel run //tools:profile_ncu -- --kernel-name fused_mlp --bench "8192 rows 768"

prints each launch's time, traffic and commonest stalls, and what part of the floor they reach together. Clocks are left
as they are. In the GPU bundle: python3 -m tools.profile.ncu, with the same options.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.bench.kernel_results import spec_for
from tools.bench.kernels_suite import DEVICE_SPECS, nvidia_smi
from tools.profile import ncu_report, target


def collect(command: list[str]) -> str:
    """ncu's CSV of the command's launches between the profiler's start and stop.

    Raises:
        CannotProfileError: there is no ncu.
    """
    ncu = target.find_profiler("ncu", "Nsight Compute")
    options = ["--profile-from-start", "off", "--clock-control", "none", "--target-processes", "all"]
    options += ["--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(ncu_report.METRICS)]
    for section in ncu_report.SECTIONS:
        options += ["--section", section]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        done = subprocess.run(
            [ncu, *options, "--log-file", str(log), *command],
            env=target.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout + (log.read_text() if log.is_file() else "")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="profile_ncu", description=__doc__.splitlines()[0] if __doc__ else None)
    target.add_arguments(parser)
    parser.add_argument("--csv", type=Path, help="also keep what ncu printed in this file")
    parser.add_argument("--from-csv", type=Path, help="read such a file instead of profiling")
    args = parser.parse_args(argv)
    try:
        case = target.find_case(args.kernel_name, args.bench, args.variant)
        program = target.program(case, args.variant, args.library)
        text = args.from_csv.read_text() if args.from_csv else collect(program)
        if args.csv:
            args.csv.write_text(text)
        launches = ncu_report.parse(text)
    except (target.CannotProfileError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    spec = spec_for((nvidia_smi("name") or [""])[0], DEVICE_SPECS)
    floor_us = spec.floor(case.flops, case.bytes, case.dtype)[0] if spec else None
    print(f"{case.kernel} {case.shape}, {args.variant}")
    print(ncu_report.render(launches, case.flops, case.bytes, floor_us))
    return 0


if __name__ == "__main__":
    if folder := os.environ.get("BUILD_WORKING_DIRECTORY"):
        os.chdir(folder)
    sys.exit(main())
