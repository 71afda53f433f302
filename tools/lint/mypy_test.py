"""mypy over python/ and our Python tools, with a cache in the user's cache folder."""

import os
import sys

import checkout
from mypy import api


def test_types():
    top = checkout.root("MODULE.bazel")
    folders = [f for f in ("python/flashflow", "tools/lint") if any(n.startswith(f) for n in checkout.files(top))]
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "flashflow", "mypy")
    os.chdir(top)
    os.environ["MYPYPATH"] = os.pathsep.join([str(top / "python"), str(top / "tools/lint")])
    out, err, status = api.run(["--cache-dir", cache, "--python-executable", sys.executable, *folders])
    assert status == 0, out + err
