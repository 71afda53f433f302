"""Rules on top of the locked environment: pytest_test and python_launcher."""

load("@rules_python//python:defs.bzl", "py_binary", "py_test")

_LAUNCHER = Label("//tools/python_env:launcher.py")
_PYTEST = Label("//tools/python_env:pytest_main.py")

def pytest_test(name, srcs, deps = [], args = [], **kwargs):
    """Runs pytest on srcs.

    Args:
      name: the target.
      srcs: the test files.
      deps: what they import; pytest itself is added.
      args: more arguments for pytest.
      **kwargs: as for py_test.
    """
    py_test(
        name = name,
        srcs = srcs + [_PYTEST],
        main = _PYTEST,
        args = ["$(location %s)" % src for src in srcs] + args,
        deps = deps + ["@pypi//pytest"],
        **kwargs
    )

def python_launcher(name, deps, **kwargs):
    """A binary that is the environment's python itself: `bazel run NAME -- script.py`, -c, -m or a prompt.

    Args:
      name: the target.
      deps: what scripts may import.
      **kwargs: as for py_binary.
    """
    py_binary(
        name = name,
        srcs = [_LAUNCHER],
        main = _LAUNCHER,
        deps = deps,
        **kwargs
    )
