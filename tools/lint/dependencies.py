"""Who may depend on whom: the directions of the architecture, as one table, and what breaks them.

Three kinds of edges are read: `#include "..."` of C++ sources, labels in the
deps of BUILD files, and imports of Python sources. Every edge is judged by the
first row of LAYERS whose folder holds the file. A test, and a library that its
BUILD file calls testonly, may use more than the code it tests, but is held to
the same bans on foreign libraries.
"""

import ast
import dataclasses
import re
from collections.abc import Iterator, Mapping


@dataclasses.dataclass(frozen=True)
class Layer:
    folder: str  # the files it speaks of: this folder and those below
    may: tuple[str, ...]  # first-party folders, or single targets folder:name, that it may use beside itself
    tests_may: tuple[str, ...] = ()  # what its tests may use as well
    foreign_banned: tuple[str, ...] = ()  # prefixes of include paths that are not ours


COMPILER_BANS = ("cuda", "cublas", "nv", "torch/", "ATen/", "c10/", "pybind11/", "Python.h", "hwy/")
NO_PYTHON = ("pybind11/", "Python.h", "torch/", "ATen/", "c10/")

IR = "compiler/ir"
PLAN = "compiler/plan"
CATALOG = "kernels/registry:catalog"
# Plain values and macros that live beside the IR and know nothing of graphs.
VOCABULARY = ("compiler/ir:dtype", "compiler/ir:attr", "compiler/ir:dim_expr", "compiler/ir:status_macros")
COMPILER = tuple(
    f"compiler/{part}"
    for part in ("ir", "plan", "frontend", "interpreter", "analysis", "passes", "proof", "codegen", "driver")
)

LAYERS = (
    Layer("compiler/ir", (), foreign_banned=COMPILER_BANS),
    Layer("compiler/plan", (IR,), foreign_banned=COMPILER_BANS),
    Layer("compiler/frontend", (IR,), ("compiler/interpreter",), COMPILER_BANS),
    Layer("compiler/interpreter", (IR,), foreign_banned=COMPILER_BANS),
    Layer("compiler/analysis", (IR, PLAN), ("compiler/interpreter",), COMPILER_BANS),
    Layer(
        "compiler/passes",
        (IR, PLAN, "compiler/analysis"),
        ("compiler/interpreter", "compiler/frontend", "compiler/proof"),
        COMPILER_BANS,
    ),
    # Runs passes and holds them to the interpreter: for tools and tests alone.
    Layer(
        "compiler/proof",
        (IR, "compiler/passes", "compiler/interpreter"),
        ("compiler/frontend",),
        COMPILER_BANS,
    ),
    Layer(
        "compiler/codegen",
        (IR, PLAN, "compiler/analysis", "compiler/passes", CATALOG),
        ("compiler/interpreter", "compiler/frontend"),
        COMPILER_BANS,
    ),
    Layer("compiler", (*COMPILER, CATALOG), foreign_banned=COMPILER_BANS),  # the driver
    Layer("kernels/cuda", (), foreign_banned=("absl/", "torch/", "ATen/", "c10/", "pybind11/", "Python.h")),
    Layer("kernels/triton", VOCABULARY, foreign_banned=("pybind11/", "Python.h", "ATen/", "c10/")),
    Layer("kernels/cpu", (*VOCABULARY, CATALOG), ("kernels/registry",), NO_PYTHON),
    Layer("kernels/registry", (*VOCABULARY, "kernels/cpu", "kernels/cuda"), foreign_banned=NO_PYTHON),
    Layer("kernels", (*VOCABULARY, "kernels"), foreign_banned=NO_PYTHON),
    Layer("runtime/python", (*COMPILER, "kernels", "runtime"), ("python/flashflow",)),  # the only place for pybind11
    Layer(
        "runtime/api",
        (
            IR,
            PLAN,
            "compiler/analysis",
            "compiler/driver",
            "compiler/passes:options",
            "kernels",
            "runtime",
        ),
        COMPILER,
        NO_PYTHON,
    ),
    # Engine, executor and devices; beside the IR they know plans, what a device can do, and kernels; and no part that
    # makes plans.
    Layer(
        "runtime",
        (IR, PLAN, "compiler/analysis:device_spec", "kernels", "runtime"),
        COMPILER,
        NO_PYTHON,
    ),
)

PYTHON_LEAVES = {  # nobody imports these, but who stands beside them here
    "flashflow.cli": (),
    "flashflow.training": ("flashflow.cli",),
    "flashflow.serve": ("flashflow.cli",),
}

_INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)
_CXX = (".cc", ".h", ".cu", ".cuh")
_OURS = ("compiler/", "kernels/", "runtime/", "python/", "tools/", "tests/")


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _layer(path: str) -> Layer | None:
    return next((layer for layer in LAYERS if _is_below(path, layer.folder)), None)


def _allowed(layer: Layer, package: str, name: str, is_test: bool) -> bool:
    """Whether the layer may use //package:name."""
    if _is_below(package, layer.folder) and _layer(package) == layer:
        return True
    for entry in layer.may + (layer.tests_may if is_test else ()):
        folder, _, target = entry.partition(":")
        if target:
            if package == folder and name == target:
                return True
        elif _is_below(package, folder):
            return True
    return False


def _check_source(path: str, text: str, is_test: bool) -> Iterator[str]:
    layer = _layer(path)
    for match in _INCLUDE.finditer(text):
        quote, included = match.group(1), match.group(2)
        if quote == '"' and included.startswith(_OURS):
            package, _, file_name = included.rpartition("/")
            if layer and not _allowed(layer, package, file_name.rsplit(".", 1)[0], is_test):
                yield f"{path}: {layer.folder} must not include {included}"
        elif layer and included.startswith(layer.foreign_banned):
            yield f"{path}: {layer.folder} must not include {included}"
        if included.startswith("pybind11/") and not path.startswith(("runtime/python/", "tests/toolchain/")):
            yield f"{path}: only runtime/python includes pybind11"


def _strings(call: ast.Call, *attributes: str) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg in attributes:
            for node in ast.walk(keyword.value):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def _rules(path: str, text: str) -> Iterator[tuple[ast.Call, str, bool]]:
    """(call, name, whether it is for tests only) of every rule in a BUILD file."""
    for call in (node for node in ast.walk(ast.parse(text, path)) if isinstance(node, ast.Call)):
        kind = call.func.id if isinstance(call.func, ast.Name) else ""
        values = {k.arg: str(k.value.value) for k in call.keywords if isinstance(k.value, ast.Constant)}
        yield call, values.get("name", ""), kind.endswith("_test") or values.get("testonly") == "True"


def _test_files(builds: Mapping[str, str]) -> set[str]:
    """The C++ files that only test targets are made of."""
    tests: set[str] = set()
    others: set[str] = set()
    for path, text in builds.items():
        package = path.rpartition("/")[0]
        for call, _, is_test in _rules(path, text):
            files = {f"{package}/{name}" for name in _strings(call, "srcs", "hdrs", "textual_hdrs")}
            (tests if is_test else others).update(files)
    return tests - others


def _check_build(path: str, text: str) -> Iterator[str]:
    package = path.rpartition("/")[0]
    layer = _layer(package)
    if layer is None:
        return
    for call, target, is_test in _rules(path, text):
        for label in _strings(call, "deps", "implementation_deps"):
            if label.startswith("//"):
                used, _, name = label[2:].partition(":")
                if not _allowed(layer, used, name or used.rpartition("/")[2], is_test):
                    yield f"{path}: {layer.folder} must not depend on {label} (target {target})"
            elif "pybind11" in label and not package.startswith("runtime/python"):
                yield f"{path}: only runtime/python depends on {label}"


def _check_python(path: str, text: str) -> Iterator[str]:
    if not path.startswith("python/flashflow/"):
        return
    module = path.removeprefix("python/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    is_test = path.endswith("_test.py") or path.endswith("/conftest.py")
    package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(above + ([node.module] if node.module else []))
            used = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for leaf, users in PYTHON_LEAVES.items():
            inside = any(_is_below(module.replace(".", "/"), u.replace(".", "/")) for u in (leaf, *users))
            if not inside and not is_test and any(u == leaf or u.startswith(leaf + ".") for u in used):
                yield f"{path}: nobody imports {leaf}"
        if any(u.split(".")[0] in ("tests", "tools") for u in used):
            yield f"{path}: the library must not import {', '.join(used)}"


def violations(sources: Mapping[str, str]) -> list[str]:
    """Every broken rule in `sources` (path -> text), sorted."""
    found: set[str] = set()
    builds = {path: text for path, text in sources.items() if path.endswith("BUILD.bazel")}
    test_files = _test_files(builds)
    for path, text in sources.items():
        if path.endswith(_CXX):
            found.update(_check_source(path, text, path in test_files))
        elif path in builds:
            found.update(_check_build(path, text))
        elif path.endswith(".py"):
            found.update(_check_python(path, text))
    return sorted(found)
