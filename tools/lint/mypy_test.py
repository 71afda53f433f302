"""mypy over the Python package and our tools, with a cache in the user's cache folder."""

import os
import sys

import checkout
from mypy import api

LIBRARY = "python/flashflow"
TOOLS = ("tools/ci", "tools/lint", "tools/notices")


def test_types():
    top = checkout.root("MODULE.bazel")
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "flashflow", "mypy")
    os.chdir(top)
    os.environ["MYPYPATH"] = os.pathsep.join(str(top / folder) for folder in ("python", *TOOLS))
    out, err, status = api.run(["--cache-dir", cache, "--python-executable", sys.executable, LIBRARY, *TOOLS])
    assert status == 0, out + err
