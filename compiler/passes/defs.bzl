"""compiler_pass: one pass and its test."""

load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")

def compiler_pass(name, deps = [], test_deps = []):
    """A pass, foo_pass.h and foo_pass.cc, and its test, foo_pass_test.cc. Pipelines and tests here use it.

    Args:
      name: foo_pass.
      deps: what the pass uses beside the graph and the interface of passes.
      test_deps: what its test uses beside the pass and ir_check.
    """
    cc_library(
        name = name,
        srcs = [name + ".cc"],
        hdrs = [name + ".h"],
        deps = deps + [
            "//compiler/ir:graph",
            ":pass",
        ],
    )

    cc_test(
        name = name + "_test",
        size = "small",
        srcs = [name + "_test.cc"],
        deps = test_deps + [
            ":ir_check",
            ":" + name,
            "@googletest//:gtest_main",
        ],
    )
