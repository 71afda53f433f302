#!/usr/bin/env bash
# requirements.in -> requirements_lock.txt: one resolution for CPython 3.10 to 3.13, in three parts.
#   [shared]  every package but torch's builds, with hashes
#   [cpu]     torch's CPU build: pinned by version; it comes from PyTorch's own index or from pip's find-links
#   [cuda]    torch's CUDA build and the packages that only it needs, with hashes
set -euo pipefail
cd "$(dirname "$0")/../.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q uv==0.13.9
"$tmp/venv/bin/uv" pip compile -q --universal --python-version 3.10 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url "$@" requirements.in > "$tmp/all.txt"
python3 - "$tmp/all.txt" > "$tmp/lock.txt" <<'P'
import re
import sys

blocks = [b for b in re.split(r"(?m)^(?=[a-z])", open(sys.argv[1]).read()) if b.strip()]
only_cuda = re.compile(r"(torch|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==")
cuda = [b for b in blocks if only_cuda.match(b)]
torch = next(b.split()[0] for b in cuda if b.startswith("torch=="))
print("# Written by tools/python_env/lock.sh from requirements.in.")
print("# [shared]\n" + "".join(b for b in blocks if b not in cuda), end="")
print(f"# [cpu]\n{torch}+cpu")
print("# [cuda]\n" + "".join(cuda), end="")
P
mv "$tmp/lock.txt" requirements_lock.txt
