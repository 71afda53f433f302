"""Gives every Bazel module of the graph a folder on this machine: modules.py PREFIX WORKSPACE.

PREFIX is what provision.sh made: Debian's Bazel with its rules, and the source
packages of the libraries, whose upstream BUILD files are used as they are. The
folders go to PREFIX/modules-KEY; the .bazelrc lines that select them go to
standard output. MODULE.bazel itself stays an ordinary one.

A new bazel_dep in MODULE.bazel needs a row in `_modules`.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SHIM = Path(__file__).resolve().parent / "shim"
FIND_PYTHON = SHIM.parents[1] / "python_env/find_python.sh"

RULES_CC_ADDITION = """
config_setting(
    name = "emscripten",
    flag_values = {"@bazel_tools//tools/cpp:compiler": "emscripten"},
)
"""

# No toolchain is registered, so none of forty toolchain repositories is made for a C++ or Python build.
RULES_JAVA_MODULE = """module(name = "rules_java")
bazel_dep(name = "platforms", version = "0.0.4")
bazel_dep(name = "rules_cc", version = "0.0.2")
bazel_dep(name = "bazel_features", version = "1.11.0")
bazel_dep(name = "bazel_skylib", version = "1.6.1")
bazel_dep(name = "rules_proto", version = "4.0.0")
bazel_dep(name = "rules_license", version = "0.0.3")
toolchains = use_extension("//java:extensions.bzl", "toolchains")
use_repo(
    toolchains,
    "local_jdk",
    "remote_java_tools",
    "remote_java_tools_darwin_arm64",
    "remote_java_tools_darwin_x86_64",
    "remote_java_tools_linux",
    "remote_java_tools_windows",
)
"""

BUILDOZER_EXTENSION = """def _empty_impl(rctx):
    rctx.file("BUILD.bazel", "")

_empty = repository_rule(implementation = _empty_impl)

def _extension_impl(_mctx):
    _empty(name = "buildozer_binary")

buildozer_binary = module_extension(implementation = _extension_impl)
"""

ZLIB_BUILD = """load("@rules_cc//cc:defs.bzl", "cc_library")

cc_library(
    name = "zlib",
    linkopts = ["-lz"],
    visibility = ["//visibility:public"],
)
"""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _stub(folder: Path, files: dict[str, str] | None = None) -> Path:
    """A module that is resolved, because another one names it, and loaded hardly or never."""
    _write(folder / "MODULE.bazel", f'module(name = "{folder.name}")\n')
    for name, text in {"BUILD.bazel": "", **(files or {})}.items():
        _write(folder / name, text)
    return folder


def _copy(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def _modules(prefix: Path, made: Path) -> dict[str, Path]:
    """Module name -> its folder; what has to be changed or invented is made under `made`."""
    debian = prefix / "usr/share/bazel"
    sources = prefix / "src"
    modules = {
        "platforms": debian / "tools/platforms",
        "bazel_skylib": debian / "tools/skylib",
        "bazel_features": debian / "tools/features",
        "rules_cc": _copy(debian / "rules/cc", made / "rules_cc"),
        "rules_java": _copy(debian / "rules/java", made / "rules_java"),
        "rules_license": debian / "rules/license",
        "rules_proto": debian / "rules/proto",
        "rules_python": debian / "rules/python",
        "rules_shell": debian / "rules/shell",
        "abseil-cpp": sources / "abseil",
        "google_benchmark": sources / "benchmark",
        "googletest": sources / "googletest",
        "highway": sources / "highway",
        "nlohmann_json": _copy(sources / "nlohmann-json3", made / "nlohmann_json"),
        "pybind11_bazel": _copy(SHIM / "pybind11_bazel", made / "pybind11_bazel"),
        "rules_cuda": _copy(SHIM / "rules_cuda", made / "rules_cuda"),
        "buildozer": _stub(made / "buildozer", {"buildozer_binary.bzl": BUILDOZER_EXTENSION}),
        "zlib": _stub(made / "zlib", {"BUILD.bazel": ZLIB_BUILD}),
    }
    for name in ("pybind11_bazel", "rules_cuda"):
        shutil.copy(FIND_PYTHON, made / name)
    for name in ("apple_support", "libpfm", "protobuf", "re2", "rules_foreign_cc"):
        modules[name] = _stub(made / name)
    with (made / "rules_cc/cc/compiler/BUILD").open("a") as build:  # abseil names it; newer than Debian's rules_cc
        build.write(RULES_CC_ADDITION)
    _write(made / "rules_java/MODULE.bazel", RULES_JAVA_MODULE)
    _write(made / "nlohmann_json/MODULE.bazel", 'module(name = "nlohmann_json")\n')  # the tarball has none
    _copy(SHIM / "coverage_tools", made / "coverage_tools")
    return modules


def _direct_deps(module_file: Path, with_dev: bool) -> Iterator[str]:
    text = re.sub(r"(?m)#.*$", "", module_file.read_text())
    for call in re.findall(r"(?s)bazel_dep\(([^)]*)\)", text):
        attributes = dict(re.findall(r'(\w+)\s*=\s*"?([^",\s]+)"?', call))
        if with_dev or attributes.get("dev_dependency") != "True":
            yield attributes["name"]


def _reached(prefix: Path, workspace: Path, modules: dict[str, Path]) -> list[str]:
    """The names in the graph: Bazel refuses an override of a module that is not in it."""
    todo = ["platforms"]  # Bazel's built-in local_config_platform
    todo += _direct_deps(workspace / "MODULE.bazel", with_dev=True)
    todo += _direct_deps(prefix / "usr/share/bazel/embedded_tools/MODULE.bazel", with_dev=False)
    reached: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in modules:
            sys.exit(
                f"bazelw: tools/bootstrap/modules.py has no source for the module {name} of MODULE.bazel: add a row."
            )
        if name not in reached:
            reached.add(name)
            todo += _direct_deps(modules[name] / "MODULE.bazel", with_dev=False)
    return sorted(reached)


def _key() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in [FIND_PYTHON, *sorted(p for p in SHIM.rglob("*") if p.is_file())]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    prefix, workspace = (Path(arg).resolve() for arg in sys.argv[1:])
    final = prefix / f"modules-{_key()}"  # never changed once made: servers may be using it
    with tempfile.TemporaryDirectory(dir=prefix, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / "modules"
        modules = _modules(prefix, made)
        _write(made / "registry/bazel_registry.json", "{}\n")
        reached = _reached(prefix, workspace, modules)
        with contextlib.suppress(OSError):  # an earlier or a parallel run made it
            made.rename(final)
    coverage = "bazel_tools~remote_coverage_tools_extension~remote_coverage_tools"
    lines = [
        "# Every module comes from this machine, none is downloaded.",
        "common --lockfile_mode=off",
        "common --check_direct_dependencies=off",
        "common --repository_disable_download",
        "common --noenable_workspace",
        f"common --registry=file://{made}/registry",
        f"common --override_repository={coverage}={made}/coverage_tools",
        *(f"common --override_module={name}={modules[name]}" for name in reached),
    ]
    print("\n".join(lines).replace(f"{made}{os.sep}", f"{final}{os.sep}"))


if __name__ == "__main__":
    main()
