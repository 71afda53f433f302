"""Records a timeline of one case of the kernels' benchmark with Nsight Systems.

    bazel run //tools:profile_nsys -- --kernel-name fused_attention --bench 8x12x1024x64 -o attention

writes attention.nsys-rep, to be opened with nsys-ui, and prints the time of each kernel.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tools.profile import target


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="profile_nsys", description=__doc__.splitlines()[0] if __doc__ else None)
    target.add_arguments(parser)
    parser.add_argument("-o", "--out", type=Path, default=Path("profile"), help="the report, without its ending")
    args = parser.parse_args(argv)
    try:
        case = target.find_case(args.kernel_name, args.bench, args.variant)
        nsys = target.find_profiler("nsys", "Nsight Systems")
    except target.CannotProfileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = [nsys, "profile", "--capture-range=cudaProfilerApi", "--trace=cuda", "--force-overwrite=true"]
    command = [*record, f"--output={args.out}", *target.program(case, args.variant, args.library)]
    status = subprocess.run(command, env=target.environment(), check=False).returncode
    report = args.out.with_name(args.out.name + ".nsys-rep")
    if status != 0 or not report.is_file():
        print(f"error: nsys wrote no report (exit status {status})", file=sys.stderr)
        return 1
    return subprocess.run([nsys, "stats", "--report=cuda_gpu_kern_sum", str(report)], check=False).returncode


if __name__ == "__main__":
    if folder := os.environ.get("BUILD_WORKING_DIRECTORY"):
        os.chdir(folder)
    sys.exit(main())
