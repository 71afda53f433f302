"""Runs one case of the kernels' benchmark between the profiler's start and stop, once warmed up.

For profilers that record from cudaProfilerStart on: `ncu --profile-from-start off`, `nsys -c cudaProfilerApi`.
"""

import argparse
import sys
from pathlib import Path

import torch
from kernels.bench.families import select
from kernels.bench.library import Library
from kernels.bench.timing import ROTATED_BYTES

WARM_UPS = 3


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--kernel", required=True, help="the family")
    parser.add_argument("--shape", required=True, help="the whole name of the shape")
    parser.add_argument("--variant", required=True)
    args = parser.parse_args(argv)
    cases = select({"ours": Library(args.library)}, [args.kernel], [args.shape])
    case = next(case for case in cases if case.shape == args.shape)
    call = case.variants()[args.variant](*case.make())
    for _ in range(WARM_UPS):
        call()
    torch.empty(ROTATED_BYTES, dtype=torch.uint8, device="cuda").fill_(1)  # what was in L2 leaves it
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    call()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
