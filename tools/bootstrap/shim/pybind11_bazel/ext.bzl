"""@pybind11: the headers of the pinned pybind11 wheel and those of the machine's Python."""

# The pin of requirements_lock.txt.
_REQUIREMENT = "pybind11==3.1.0 --hash=sha256:a1cc06b524ab3edca51f8ad3895f9c4fa20b8b19283173dff4ae781449dc9639"

_BUILD = """load("@rules_cc//cc:defs.bzl", "cc_library")

package(default_visibility = ["//visibility:public"])

cc_library(
    name = "python_headers",
    hdrs = glob(["python/**/*.h"]),
    includes = ["python"],
)

cc_library(
    name = "pybind11",
    hdrs = glob(["wheel/pybind11/include/**/*.h"]),
    includes = ["wheel/pybind11/include"],
    deps = [":python_headers"],
)
"""

def _run(rctx, what, command):
    done = rctx.execute(command, timeout = 600)
    if done.return_code:
        fail("%s: %s" % (what, done.stderr.strip()[-2000:]))
    return done.stdout.strip()

def _impl(rctx):
    python = _run(rctx, "no Python", ["sh", rctx.path(Label("//:find_python.sh"))])
    rctx.file("requirements.txt", _REQUIREMENT)
    _run(rctx, "%s -m venv failed" % python, [python, "-m", "venv", "venv"])
    _run(rctx, "pip could not install pybind11", [
        "venv/bin/pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
        "--target=wheel",
        "--requirement=requirements.txt",
    ])
    rctx.delete("venv")
    headers = _run(rctx, "no headers", [python, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"])
    if not rctx.path(headers + "/Python.h").exists:
        fail("%s has no headers (Python.h): install them (Debian, Ubuntu: apt-get install python3-dev)" % python)
    rctx.symlink(headers, "python")
    rctx.file("BUILD.bazel", _BUILD)

_repo = repository_rule(
    implementation = _impl,
    environ = ["FLASHFLOW_PYTHON", "PATH", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL"],
)

def _extension_impl(_mctx):
    _repo(name = "pybind11")

ext = module_extension(implementation = _extension_impl)
