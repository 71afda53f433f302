"""THIRD_PARTY_NOTICES.md: made from MODULE.bazel, the locked packages and tools/notices/licenses.py.

`bazel run //tools/notices:update` writes it; notices_test checks that it is current.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import licenses

HEAD = """# Third-party notices

What FlashFlow is built from, tested with and linked against. Made by `./bazelw run //tools/notices:update`
from `MODULE.bazel`, `requirements_lock.txt` and `tools/notices/licenses.py`; a test keeps it current.
FlashFlow itself is under the Apache License 2.0 (`LICENSE`).
"""


class UnknownLicenseError(Exception):
    """A dependency has no row in licenses.py."""


def bazel_modules(module_text: str) -> list[tuple[str, str]]:
    """(name, version) of every bazel_dep."""
    return re.findall(r'(?m)^bazel_dep\(name = "([^"]+)", version = "([^"]+)"', module_text)


def pinned_files(module_text: str) -> list[tuple[str, str]]:
    """(package, version) of every packages.wheel and packages.npm."""
    wheels = re.findall(r'(?m)^    requirement = "([^"=]+)==([^"]+)"', module_text)
    npm = re.findall(r'(?m)^    package = "(@?[^"@]+)@([^"]+)"', module_text)
    return sorted(wheels + npm)


def locked_packages(lock_text: str) -> list[tuple[str, str]]:
    """(package, versions) of the lock, in order of name."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==([^ \\\n]+)", lock_text):
        versions.setdefault(name, [])
        if version not in versions[name]:
            versions[name].append(version)
    return sorted((name, ", ".join(found)) for name, found in versions.items())


def _python_license(name: str) -> str:
    if name.startswith(licenses.NVIDIA_PREFIXES):
        return licenses.NVIDIA
    return licenses.PYTHON[name]


def _table(rows: Iterable[tuple[str, str]], license_of: Callable[[str], str], where: str) -> list[str]:
    lines = ["", "| what | version | license |", "|---|---|---|"]
    for name, version in rows:
        try:
            lines.append(f"| {name} | {version} | {license_of(name)} |")
        except KeyError:
            raise UnknownLicenseError(
                f"{name} {version} has no license in {where} of tools/notices/licenses.py"
            ) from None
    return lines


def render(module_text: str, lock_text: str) -> str:
    """The whole text of THIRD_PARTY_NOTICES.md."""
    lines = [HEAD, "## In our binaries", "", "| what | license | how |", "|---|---|---|"]
    for name, how in licenses.LINKED.items():
        lines.append(f"| {name} | {licenses.MODULES[name]} | {how} |")
    lines.append(f"| CUDA runtime | {licenses.NVIDIA} | statically, in binaries with CUDA kernels |")
    lines.append("| GCC runtime libraries | GPL-3.0 WITH GCC-exception-3.1 | dynamically, the machine's |")
    lines += ["", "## Bazel modules"]
    lines += _table(bazel_modules(module_text), licenses.MODULES.__getitem__, "MODULES")
    lines += [
        "",
        "## Models, tokenizers and tools that come as packages",
        "",
        "Fetched at build time, not redistributed.",
    ]
    lines += _table(pinned_files(module_text), licenses.FILES.__getitem__, "FILES")
    lines += [
        "",
        "## Python packages",
        "",
        "Installed from the package index into the build's environment, not redistributed. Which of several",
        "versions is installed depends on the version of Python; torch's build decides about NVIDIA's packages.",
    ]
    lines += _table(locked_packages(lock_text), _python_license, "PYTHON")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    top = Path(os.path.realpath(argv[0])).parent
    text = render((top / "MODULE.bazel").read_text(), (top / "requirements_lock.txt").read_text())
    (top / "THIRD_PARTY_NOTICES.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
