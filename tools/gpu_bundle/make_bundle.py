"""The GPU bundle: what a machine with a GPU, and without Bazel or a network, needs to test and time kernels and models.

    bazel run //tools:gpu_bundle -- flashflow-gpu.tar.gz

Files keep their paths in the repository below one folder, beside run.py, which runs them all.
"""

import argparse
import gzip
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tools.bench.commit import source_commit

TOP = "flashflow-gpu"
MOST_BYTES = 60 << 20
RUNNER = "tools/gpu_bundle/run.py"
README = """Tests and benchmarks of FlashFlow's CUDA and Triton kernels and of whole models, commit {commit}.

    python3 run.py            everything; run.py --help says how to choose

Needs an NVIDIA GPU with its driver, Python 3.10 or newer, and torch with CUDA; triton and pytest for the Python tests,
matplotlib for charts. ncu and compute-sanitizer are used where they are found.
"""


def bundle_files(sources: Iterable[str], environment: dict[str, str], commit: str) -> dict[str, bytes | Path]:
    """Path in the bundle -> content. `sources` are paths relative to the runfiles' top, which we stand in.

    Folders of Python sources become packages, so that no installed package of the same name comes before them.
    """
    files: dict[str, bytes | Path] = {path: Path(path) for path in sorted(set(sources)) if path != RUNNER}
    for path in list(files):
        if path.endswith(".py"):
            for folder in list(Path(path).parents)[:-1]:
                files.setdefault(f"{folder}/__init__.py", b"")
    return files | {
        "run.py": Path(RUNNER),
        "COMMIT": commit.encode() + b"\n",
        "README": README.format(commit=commit).encode(),
        "environment.json": json.dumps(environment, indent=1).encode(),
    }


def write(out: Path, files: dict[str, bytes | Path]) -> int:
    """Writes the archive, the same bytes for the same files; gives its size.

    Raises:
        ValueError: it is larger than MOST_BYTES, or a path leaves the bundle.
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(mode="w", fileobj=compressed) as tar,
    ):
        for path in sorted(files):
            if path.startswith(("/", "../")) or "/../" in path:
                raise ValueError(f"{path} is not below the repository")
            source = files[path]
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(f"{TOP}/{path}")
            entry.size = len(content)
            entry.mode = 0o755 if content[:4] == b"\x7fELF" or content[:2] == b"#!" else 0o644
            tar.addfile(entry, io.BytesIO(content))
    size = packed.tell()
    if size > MOST_BYTES:
        raise ValueError(f"the bundle takes {size >> 20} MiB, more than {MOST_BYTES >> 20}")
    out.write_bytes(packed.getvalue())
    return size


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_bundle", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", default="", help=argparse.SUPPRESS)  # by the BUILD file
    parser.add_argument("--environment", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("out", type=Path, help="the archive to write, a .tar.gz")
    args = parser.parse_args(argv)
    environment = dict(entry.partition("=")[::2] for entry in args.environment)
    out = Path(os.environ.get("BUILD_WORKING_DIRECTORY", ".")) / args.out
    try:
        size = write(out, bundle_files(args.files.split(), environment, source_commit()))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{out}: {size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
