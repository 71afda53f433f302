"""The files of the checkout that a lint test looks at."""

import os
import subprocess
from pathlib import Path


def root(marker: str) -> Path:
    """The checkout that `marker`, a runfile of its top folder, links to."""
    return Path(os.path.realpath(marker)).parent


def files(top: Path) -> list[str]:
    """Paths relative to `top`: what git tracks or would track; without git, everything but Bazel's links."""
    if (top / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=top,
            check=True,
            capture_output=True,
            text=True,
        )
        return sorted(name for name in listed.stdout.split("\0") if name and (top / name).is_file())
    found = []
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = [s for s in subfolders if not os.path.islink(os.path.join(folder, s))]
        found += [os.path.relpath(os.path.join(folder, name), top) for name in names]
    return sorted(found)
