"""@cuda_host: whether this machine has an NVIDIA GPU whose driver is loaded."""

_BUILD = """load("@bazel_skylib//rules:common_settings.bzl", "bool_flag")

bool_flag(
    name = "gpu_found",
    build_setting_default = {found},
    visibility = ["//visibility:public"],
)
"""

def _impl(rctx):
    found = [p for p in ["/dev/nvidia%d" % i for i in range(16)] + ["/dev/dxg"] if rctx.path(p).exists]
    rctx.file("BUILD.bazel", _BUILD.format(found = bool(found)))

_repo = repository_rule(implementation = _impl, configure = True, local = True)

def _extension_impl(_mctx):
    _repo(name = "cuda_host")

cuda_host = module_extension(implementation = _extension_impl)
