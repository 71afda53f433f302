"""The slowest actions of a Bazel run: slowest_actions.py PROFILE [--count 10] [--matching nvcc].

PROFILE is what `--profile=FILE` wrote; Bazel keeps that of the last command as command.profile.gz in its output base.
What a cache answered took no time: for a whole list, build without one (`--disk_cache=`, after `clean`).
"""

import argparse
import gzip
import json
import os
import sys
import zlib
from pathlib import Path

ACTION = "action processing"


def slowest(profile: str, count: int, matching: str = "") -> list[tuple[float, str]]:
    """(seconds, what it says it does) of the slowest actions whose message has `matching` in it.

    Raises:
        ValueError: the text is no profile of Bazel.
    """
    try:
        events = json.loads(profile)["traceEvents"]
        actions = [(e["dur"] / 1e6, str(e["name"])) for e in events if e.get("cat") == ACTION and "dur" in e]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a profile of Bazel: {error!r}") from error
    return sorted((a for a in actions if matching in a[1]), reverse=True)[:count]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--matching", default="", help="part of the action's message, such as nvcc")
    args = parser.parse_args(argv)
    try:
        content = args.profile.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
        found = slowest(text, args.count, args.matching)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for seconds, message in found:
        print(f"{seconds:7.1f} s  {message}")
    return 0


if __name__ == "__main__":
    if folder := os.environ.get("BUILD_WORKING_DIRECTORY"):
        os.chdir(folder)
    sys.exit(main())
