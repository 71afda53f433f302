"""Each planted violation is found, each allowed edge is not, and the checkout has none."""

import os

import checkout
import dependencies
import pytest

PLANTED = [
    ("compiler/ir/graph.cc", '#include "compiler/plan/plan.h"', "compiler/ir must not include compiler/plan/plan.h"),
    ("compiler/plan/plan.cc", '#include "compiler/passes/dce_pass.h"', "compiler/plan must not"),
    ("compiler/analysis/liveness.cc", '#include "compiler/passes/pass.h"', "compiler/analysis must not"),
    ("compiler/passes/dce_pass.cc", '#include "compiler/codegen/codegen.h"', "compiler/passes must not"),
    ("compiler/passes/dce_pass.cc", '#include "compiler/interpreter/interpreter.h"', "compiler/passes must not"),
    ("compiler/frontend/importer.cc", '#include "compiler/passes/pass.h"', "compiler/frontend must not"),
    ("compiler/interpreter/interpreter.cc", '#include "compiler/plan/plan.h"', "compiler/interpreter must not"),
    ("compiler/codegen/select.cc", '#include "kernels/registry/launcher.h"', "compiler/codegen must not"),
    ("compiler/codegen/select.cc", '#include "kernels/cpu/linear.h"', "compiler/codegen must not"),
    ("compiler/driver/driver.cc", '#include "runtime/engine/engine_file.h"', "compiler must not include runtime"),
    ("compiler/driver/driver.cc", "#include <cuda_runtime.h>", "must not include cuda_runtime.h"),
    ("compiler/ir/graph.h", "#  include <torch/torch.h>", "must not include torch/torch.h"),
    ("kernels/cuda/rms_norm.cu", '#include "absl/status/status.h"', "must not include absl/status/status.h"),
    ("kernels/cuda/rms_norm.cu", '#include "compiler/ir/dtype.h"', "kernels/cuda must not"),
    ("kernels/cpu/linear.cc", '#include "compiler/ir/graph.h"', "kernels/cpu must not"),
    ("kernels/cpu/linear.cc", '#include "runtime/core/executor.h"', "kernels/cpu must not"),
    ("kernels/registry/catalog.h", '#include "compiler/ir/graph.h"', "kernels/registry must not"),
    ("runtime/core/executor.cc", '#include "compiler/passes/pass.h"', "runtime must not"),
    ("runtime/engine/reader.cc", '#include "compiler/driver/driver.h"', "runtime must not"),
    ("runtime/api/engine.cc", '#include "compiler/codegen/codegen.h"', "runtime/api must not"),
    ("runtime/api/engine.cc", '#include "pybind11/pybind11.h"', "only runtime/python includes pybind11"),
    ("tools/opt/opt.cc", "#include <pybind11/pybind11.h>", "only runtime/python includes pybind11"),
    (
        "compiler/ir/BUILD.bazel",
        'cc_library(name = "graph", deps = ["//compiler/plan"])',
        "compiler/ir must not depend on //compiler/plan (target graph)",
    ),
    (
        "compiler/codegen/BUILD.bazel",
        'cc_library(name = "x", deps = select({"a": ["//kernels/registry:launchers"]}))',
        "must not depend on //kernels/registry:launchers",
    ),
    (
        "compiler/passes/BUILD.bazel",
        'cc_library(name = "dce", implementation_deps = ["//compiler/interpreter"])',
        "must not depend on //compiler/interpreter (target dce)",
    ),
    ("runtime/api/BUILD.bazel", 'cc_library(name = "x", deps = ["@pybind11"])', "only runtime/python"),
    ("python/flashflow/llm.py", "from flashflow.cli import generate", "nobody imports flashflow.cli"),
    ("python/flashflow/llm.py", "def f():\n    import flashflow.training.loop", "nobody imports flashflow.training"),
    ("python/flashflow/models/gpt2.py", "from .. import training", "nobody imports flashflow.training"),
    ("python/flashflow/training/loop.py", "from flashflow import cli", "nobody imports flashflow.cli"),
    ("python/flashflow/llm.py", "import tools.lint", "the library must not import tools.lint"),
]

ALLOWED = [
    ("compiler/passes/BUILD.bazel", 'cc_test(name = "dce_test", deps = ["//compiler/interpreter"])'),
    ("compiler/codegen/select.cc", '#include "kernels/registry/catalog.h"\n#include "compiler/passes/pass.h"'),
    ("compiler/driver/driver.cc", '#include "compiler/codegen/codegen.h"\n#include <vector>'),
    ("kernels/registry/catalog.h", '#include "compiler/ir/dtype.h"'),
    ("kernels/cuda/rms_norm.cu", "#include <cuda_runtime.h>"),
    ("runtime/api/engine.cc", '#include "compiler/driver/driver.h"\n#include "runtime/core/executor.h"'),
    ("runtime/core/executor.cc", '#include "compiler/plan/plan.h"\n#include "kernels/registry/launcher.h"'),
    ("runtime/python/module.cc", '#include "pybind11/pybind11.h"\n#include "compiler/frontend/importer.h"'),
    ("python/flashflow/cli/train.py", "from flashflow.training import loop"),
    ("python/flashflow/training/loop.py", "from . import data"),
    ("python/flashflow/training/loop_test.py", "from flashflow.training import loop"),
]


@pytest.mark.parametrize(("path", "text", "message"), PLANTED)
def test_a_planted_violation_is_found(path, text, message):
    found = dependencies.violations({path: text})
    assert found and all(path in line for line in found)
    assert any(message in line for line in found), found


BUILD = """
cc_library(name = "runs", hdrs = ["runs.h"], testonly = {testonly})
cc_test(name = "dce_test", srcs = ["dce_test.cc", "runs.h"])
"""


@pytest.mark.parametrize(
    ("testonly", "file", "allowed"),
    [
        (True, "dce_test.cc", True),
        (True, "runs.h", True),
        (False, "runs.h", False),
        (True, "other_test.cc", False),
    ],
)
def test_what_is_a_test_is_in_the_build_file(testonly, file, allowed):
    sources = {
        "compiler/passes/BUILD.bazel": BUILD.format(testonly=testonly),
        f"compiler/passes/{file}": '#include "compiler/interpreter/interpreter.h"',
    }
    assert (dependencies.violations(sources) == []) is allowed


@pytest.mark.parametrize(("path", "text"), ALLOWED)
def test_an_allowed_edge_is_not(path, text):
    assert dependencies.violations({path: text}) == []


def test_the_checkout_keeps_the_directions():
    top = checkout.root("MODULE.bazel")
    names = [n for n in checkout.files(top) if not n.startswith("tools/bootstrap/shim/")]
    sources = {n: (top / n).read_text() for n in names if n.endswith((".cc", ".h", ".cu", ".cuh", ".py", ".bazel"))}
    assert any(n.startswith("compiler/") for n in sources), f"no compiler/ in {os.fspath(top)}: wrong checkout"
    assert dependencies.violations(sources) == []
