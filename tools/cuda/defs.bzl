"""What CUDA targets need: they skip where the machine lacks it."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_test")

# To compile: a CUDA toolkit, the machine's or that of --config=cuda.
REQUIRES_TOOLKIT = select({
    "//tools/cuda:toolkit_present": [],
    "//conditions:default": ["@platforms//:incompatible"],
})

# To run: a toolkit and an NVIDIA GPU.
REQUIRES_GPU = select({
    "//tools/cuda:gpu_present": [],
    "//conditions:default": ["@platforms//:incompatible"],
})

def gpu_test(name, srcs, deps, size, data = [], env = {}, linkopts = []):
    """A C++ test that needs an NVIDIA GPU.

    <name> runs it where there is one. <name>_program is the same without Bazel's test rules: it compiles on every
    machine with a toolkit, and travels to a GPU in //tools:gpu_bundle, beside the shared libraries of its package.

    Args:
      name: of the test.
      srcs: of the test.
      deps: of the test.
      size: of the test.
      data: of the test.
      env: of the test.
      linkopts: of both.
    """
    cc_binary(
        name = name + "_program",
        testonly = True,
        srcs = srcs,
        linkopts = linkopts + ["-Wl,-rpath,$$ORIGIN"],
        target_compatible_with = REQUIRES_TOOLKIT,
        visibility = ["//tools/gpu_bundle:__pkg__"],
        deps = deps,
    )
    cc_test(
        name = name,
        size = size,
        srcs = srcs,
        data = data,
        env = env,
        linkopts = linkopts,
        tags = ["gpu"],
        target_compatible_with = REQUIRES_GPU,
        deps = deps,
    )

def every_source_is_built():
    """At the end of a BUILD file: fails where a CUDA or C++ source below its package is in no target."""
    built = {}
    for rule in native.existing_rules().values():
        for attribute in ["srcs", "hdrs", "textual_hdrs"]:
            for label in rule.get(attribute, ()):
                built[label.removeprefix(":")] = True
    for source in native.glob(["**/*.cc", "**/*.cu", "**/*.cuh", "**/*.h"]):
        if source not in built:
            fail("//%s: %s is in no target" % (native.package_name(), source))
