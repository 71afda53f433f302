"""Which commit is running."""

import os
import subprocess
from pathlib import Path


def source_commit(top: Path | None = None) -> str:
    """That of the checkout that `bazel run` stands in, with -dirty where it has changes; else that of the file COMMIT.

    `top` is the folder of that file: a bundle's. "unknown" where neither is to be had.
    """
    if top and (top / "COMMIT").is_file():
        return (top / "COMMIT").read_text().strip()
    checkout = os.environ.get("BUILD_WORKSPACE_DIRECTORY", top)
    if not checkout:
        return "unknown"
    try:
        git = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
