"""@pybind11: the headers of the pybind11 wheel and of this machine's Python."""
_BUILD = """
load("@rules_cc//cc:defs.bzl", "cc_library")
package(default_visibility = ["//visibility:public"])
cc_library(name = "python_headers", hdrs = glob(["python/**/*.h"]), includes = ["python"])
cc_library(name = "pybind11", hdrs = glob(["w/pybind11/include/**/*.h"]), includes = ["w/pybind11/include"], deps = [":python_headers"])
"""
def _impl(rctx):
    py = rctx.which("python" + rctx.attr.python) or rctx.which("python3")
    r = rctx.execute([py, "-m", "pip", "install", "-q", "--no-input", "--no-deps", "--target", "w", "pybind11==" + rctx.attr.version], timeout = 600)
    if r.return_code: fail(r.stderr)
    i = rctx.execute([py, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"])
    if i.return_code: fail(i.stderr)
    rctx.symlink(i.stdout.strip(), "python")
    rctx.file("BUILD.bazel", _BUILD)
_repo = repository_rule(implementation = _impl, attrs = {"python": attr.string(default = "3.11"), "version": attr.string(default = "3.1.0")}, environ = ["PATH"])
ext = module_extension(implementation = lambda mctx: _repo(name = "pybind11"))
