"""Becomes the environment's Python: same interpreter, the target's dependencies importable.

Runs where the user stands, so that paths on the command line mean what they say.
"""

import os
import sys


def main() -> None:
    here = os.path.dirname(os.path.realpath(__file__))
    interpreters_own = (os.path.join(sys.prefix, "lib"), os.path.join(sys.base_prefix, "lib"))
    dependencies = [p for p in sys.path if p and os.path.realpath(p) != here and not p.startswith(interpreters_own)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dependencies)
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
