"""kernel_library and kernel_test: what the CPU kernels and their tests have in common."""

load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")

# The vector targets that kernels are compiled for: on x86 SSE2, AVX2 and AVX-512. Those between and beyond bring
# nothing to fp32 arithmetic. Tests need the same list.
VECTOR_TARGETS = ["HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3_DL|HWY_AVX3_ZEN4|HWY_AVX3_SPR|HWY_AVX10_2)"]

# Of kernels of int8 also AVX-512 with VNNI (four products of bytes and their sum in one instruction).
INT8_TARGETS = ["HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3_ZEN4|HWY_AVX3_SPR|HWY_AVX10_2)"]

# Kernels are launched by the registry, and measured by their tests and benchmarks here.
KERNEL_USERS = ["//kernels:__subpackages__"]

def kernel_library(name, targets = VECTOR_TARGETS, deps = [], visibility = KERNEL_USERS, **kwargs):
    """A kernel, compiled for each of the vector targets and spread over a thread pool.

    Args:
      name: the target.
      targets: VECTOR_TARGETS or INT8_TARGETS.
      deps: what it uses beside Highway and the thread pool.
      visibility: the registry's and ours, and whoever times it.
      **kwargs: as for cc_library.
    """
    cc_library(
        name = name,
        local_defines = targets,
        visibility = visibility,
        deps = deps + [
            ":thread_pool",
            "@highway//:hwy",
        ],
        **kwargs
    )

def kernel_test(name, deps, targets = VECTOR_TARGETS, **kwargs):
    """A test of a kernel.

    Args:
      name: the target.
      deps: what it uses beside the harness of such tests, Highway and the thread pool.
      targets: the kernel's.
      **kwargs: as for cc_test.
    """
    cc_test(
        name = name,
        size = "small",
        local_defines = targets,
        deps = deps + [
            ":kernel_testing",
            ":thread_pool",
            "@googletest//:gtest_main",
            "@highway//:hwy",
        ],
        **kwargs
    )
