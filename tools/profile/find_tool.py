"""Where NVIDIA's command-line tools are."""

import shutil
from pathlib import Path


def find_tool(name: str) -> str:
    """The path of ncu, nsys or compute-sanitizer, also where it is installed and not on the PATH; empty without it."""
    installed = [*Path("/usr/local/cuda/bin").glob(name), *sorted(Path("/opt/nvidia").glob(f"nsight-*/*/{name}"))]
    return shutil.which(name) or next((str(path) for path in reversed(installed)), "")
