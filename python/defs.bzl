"""flashflow_verb: a binary that is one verb of the command line."""

load("@bazel_skylib//rules:write_file.bzl", "write_file")
load("@rules_python//python:defs.bzl", "py_binary")

def flashflow_verb(name, verb = None, defaults = []):
    """`bazel run //python:NAME -- ...` is `flashflow VERB DEFAULTS ...`.

    Args:
      name: the target.
      verb: what it runs; the name where it is not given.
      defaults: options put before the user's, who may say otherwise.
    """
    main = "verbs/%s.py" % name  # a folder of its own: Python puts it on sys.path
    write_file(
        name = name + "_main",
        out = main,
        content = [
            "import sys",
            "",
            "from flashflow.cli.app import main",
            "",
            "if __name__ == \"__main__\":",
            "    main([%s, *sys.argv[1:]])" % ", ".join(["\"%s\"" % word for word in [verb or name] + defaults]),
            "",
        ],
    )
    py_binary(
        name = name,
        srcs = [main],
        main = main,
        deps = ["//python/flashflow/cli"],
        visibility = ["//visibility:public"],
    )
