"""pytest_test: a py_test whose sources pytest collects."""

load("@rules_python//python:defs.bzl", "py_test")

_MAIN = Label("//tools/python_env:pytest_main.py")

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
        srcs = srcs + [_MAIN],
        main = _MAIN,
        args = ["$(location %s)" % src for src in srcs] + args,
        deps = deps + ["@pypi//pytest"],
        **kwargs
    )
