from pathlib import Path

import notices
import pytest

MODULE = """
bazel_dep(name = "abseil-cpp", version = "1")
packages.wheel(
    name = "ruff",
    requirement = "ruff==0.1",
)
packages.npm(
    name = "buildifier",
    package = "@bazel/buildifier@8.2.1",
)
"""
LOCK = """# [shared]
numpy==2.2 ; python_full_version < '3.11' \\
    --hash=sha256:00
numpy==2.3 ; python_full_version >= '3.11' \\
    --hash=sha256:01
# [cpu]
torch==2.13.0+cpu
# [cuda]
nvidia-new-thing==1.0 \\
    --hash=sha256:02
torch==2.13.0 \\
    --hash=sha256:03
"""


def test_the_file_is_current():
    expected = notices.render(Path("MODULE.bazel").read_text(), Path("requirements_lock.txt").read_text())
    assert Path("THIRD_PARTY_NOTICES.md").read_text() == expected, "run ./bazelw run //tools/notices:update"


def test_every_pin_has_its_row():
    rows = [line for line in notices.render(MODULE, LOCK).splitlines() if line.startswith("| ")]
    assert "| abseil-cpp | 1 | Apache-2.0 |" in rows
    assert "| ruff | 0.1 | MIT |" in rows
    assert "| @bazel/buildifier | 8.2.1 | Apache-2.0 |" in rows
    assert any(row.startswith("| numpy | 2.2, 2.3 | BSD-3-Clause") for row in rows)
    assert any(row.startswith("| torch | 2.13.0+cpu, 2.13.0 |") for row in rows)
    assert any(row.startswith("| nvidia-new-thing | 1.0 | NVIDIA proprietary") for row in rows)


@pytest.mark.parametrize(
    ("module", "lock"),
    [
        ('bazel_dep(name = "rules_new", version = "1")', ""),
        ('    requirement = "new-wheel==1",', ""),
        ("", "new-package==1 \\\n"),
    ],
)
def test_a_dependency_without_a_license_is_an_error(module, lock):
    with pytest.raises(notices.UnknownLicenseError, match="new.* has no license"):
        notices.render(module, lock)


def test_the_real_files_are_read_in_full():
    module = Path("MODULE.bazel").read_text()
    assert len(notices.bazel_modules(module)) == module.count("bazel_dep(")
    assert len(notices.pinned_files(module)) == module.count("packages.wheel(") + module.count("packages.npm(")
    names = {line.split("==")[0] for line in Path("requirements_lock.txt").read_text().splitlines() if "==" in line}
    assert {name for name, _ in notices.locked_packages(Path("requirements_lock.txt").read_text())} == names
    assert "torch" in names


def test_one_pybind11_in_the_lock_and_beside_the_provisioned_bazel():
    locked = dict(notices.locked_packages(Path("requirements_lock.txt").read_text()))["pybind11"]
    assert f'"pybind11=={locked} ' in Path("tools/bootstrap/shim/pybind11_bazel/ext.bzl").read_text()
