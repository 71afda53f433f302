"""Runs one formatter or checker over the checkout: `lint.py check|fix MARKER NAME=TOOL...`.

`check` names what is wrong and exits with 1; `fix` mends what the tool can mend.
"""

import os
import subprocess
import sys
from pathlib import Path

import checkout

CXX = (".cc", ".h", ".cu", ".cuh")
STARLARK = (".bazel", ".bzl")
PYTHON = (".py", ".pyi")

# Tool -> (endings it looks at, arguments to check, arguments to fix).
COMMANDS: dict[str, list[tuple[tuple[str, ...], list[str], list[str]]]] = {
    "clang-format": [(CXX, ["--dry-run", "--Werror"], ["-i"])],
    "buildifier": [(STARLARK, ["--lint=off", "--mode=check"], ["--lint=off", "--mode=fix"])],
    "ruff": [
        (PYTHON, ["check", "--no-cache", "--quiet"], ["check", "--no-cache", "--quiet", "--fix"]),
        (PYTHON, ["format", "--no-cache", "--quiet", "--diff"], ["format", "--no-cache", "--quiet"]),
    ],
}


def run(mode: str, top: Path, tools: dict[str, str]) -> bool:
    """True where every tool is content."""
    names = checkout.files(top)
    good = True
    for tool, path in tools.items():
        if not path:
            print(f"{tool}: SKIPPED, it comes from npm and there is none on this machine")
            continue
        for endings, check, fix in COMMANDS[tool]:
            chosen = [name for name in names if name.endswith(endings)]
            command = [os.path.abspath(path), *(fix if mode == "fix" else check)]
            done = subprocess.run([*command, *chosen], cwd=top, check=False) if chosen else None
            ok = done is None or done.returncode == 0
            print(f"{tool} {command[1]}: {len(chosen)} files, {'ok' if ok else 'not ok'}", flush=True)
            good &= ok
    if not good and mode == "check":
        print("`./bazelw run //tools/lint:fix` mends what can be mended by itself")
    return good


def main(argv: list[str]) -> int:
    mode, marker, *tools = argv
    named = dict(tool.partition("=")[::2] for tool in tools)
    return 0 if run(mode, checkout.root(marker), named) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
