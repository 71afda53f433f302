"""What bazelw does with the Bazel it finds, and what it says of a machine that lacks something.

Every case runs the real script in a copy of the checkout's files, with a PATH
that holds just the named programs and an empty cache folder.
"""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FILES = (
    "bazelw",
    ".bazelversion",
    "MODULE.bazel",
    "tools/bootstrap/provision.sh",
    "tools/bootstrap/modules.py",
    "tools/bootstrap/standins.txt",
    "tools/python_env/find_python.sh",
)
# What the scripts call beside the programs that they look for.
SHELL = ("bash", "sh", "cat", "dirname", "find", "flock", "grep", "head", "mkdir", "mv", "rm", "sed", "tail", "uname")
DEBIAN = ("apt-get", "apt-cache", "dpkg-deb")
VERSION = Path(".bazelversion").read_text().strip()


@dataclasses.dataclass
class Machine:
    """A machine on which bazelw runs."""

    folder: Path

    def __post_init__(self) -> None:
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        self.cache = self.folder / "cache"
        self.checkout = self.folder / "checkout"
        for name in FILES:
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, self.checkout / name)
        self.has(*SHELL)

    def has(self, *programs: str) -> None:
        for program in programs:
            found = sys._base_executable if program == "python3" else shutil.which(program)
            if found is None:
                pytest.skip(f"no {program} on this machine")
            self.program(program, f'exec {found} "$@"')

    def lacks(self, program: str) -> None:
        (self.bin / program).unlink()

    def program(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        return path

    def bazelw(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.bin), "HOME": str(self.folder), "XDG_CACHE_HOME": str(self.cache), **env}
        return subprocess.run(
            [shutil.which("bash") or "bash", self.checkout / "bazelw", *args],
            env=env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def refuses(self, *expected: str, **env: str) -> None:
        done = self.bazelw("test", "//...", **env)
        assert done.returncode == 1
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("bazelw: ")
        assert lines[0].endswith(".")
        for words in expected:
            assert words in lines[0]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def compilers(machine):
    """Python and a C++ compiler, as every machine needs them."""
    machine.has("python3", "gcc")
    return machine


def bazel_that_echoes(version: str) -> str:
    return f'if [[ $1 == --version ]]; then echo "bazel {version}"; else echo "ran: $*"; fi'


@pytest.mark.parametrize("name", ["bazelisk", "bazel"])
def test_the_machines_own_bazel_is_used(compilers, name):
    compilers.program(name, bazel_that_echoes(VERSION))
    done = compilers.bazelw("test", "--config=asan", "//a b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran: test --config=asan //a b\n", "")
    settings = (compilers.checkout / "user.bazelrc").read_text()
    assert f"--disk_cache={compilers.cache}/flashflow/disk-cache" in settings
    assert "override_module" not in settings and "registry" not in settings


def test_settings_are_written_once(compilers):
    compilers.program("bazel", bazel_that_echoes(VERSION))
    compilers.bazelw("version")
    settings = compilers.checkout / "user.bazelrc"
    settings.write_text(settings.read_text() + "# kept\n")
    compilers.bazelw("version")
    assert settings.read_text().endswith("# kept\n")
    other = compilers.program("other", bazel_that_echoes("9"))
    compilers.bazelw("version", FLASHFLOW_BAZEL=str(other))
    assert not settings.read_text().endswith("# kept\n"), "another Bazel needs other settings"


def test_a_named_bazel_is_used_whatever_its_version(compilers):
    other = compilers.program("other", bazel_that_echoes("9.9.9"))
    assert compilers.bazelw("info", FLASHFLOW_BAZEL=str(other)).stdout == "ran: info\n"


@pytest.mark.parametrize("version", ["6.0.0", VERSION + "0"])
def test_a_bazel_of_another_version_is_not_used(compilers, version):
    compilers.program("bazel", bazel_that_echoes(version))
    compilers.refuses("apt-get is missing", "bazelisk")


def test_an_own_bazel_can_be_passed_over(compilers):
    compilers.program("bazel", bazel_that_echoes(VERSION))
    compilers.refuses("apt-get is missing", FLASHFLOW_BAZEL="provisioned")


def test_no_python(machine):
    machine.has("gcc")
    machine.program("bazel", bazel_that_echoes(VERSION))
    machine.refuses("found no python3", "CPython 3.10 to 3.13", "apt-get install python3-venv")


def test_python_of_another_version(machine):
    machine.has("gcc")
    machine.program("bazel", bazel_that_echoes(VERSION))
    python = machine.program("python3", 'echo "is Python 3.9" >&2; exit 1')
    machine.refuses(f"found {python} is Python 3.9", "CPython 3.10 to 3.13")


def test_a_later_python_on_path_is_found(compilers):
    compilers.has("python3")
    (compilers.bin / "python3").rename(compilers.bin / "python3.12")
    compilers.program("python3", 'echo "is Python 3.9" >&2; exit 1')
    compilers.program("bazel", bazel_that_echoes(VERSION))
    assert compilers.bazelw("info").stdout == "ran: info\n"


def test_python_without_venv(machine):
    machine.has("gcc")
    machine.program("bazel", bazel_that_echoes(VERSION))
    machine.program("python3", 'echo "lacks venv or ensurepip" >&2; exit 1')
    machine.refuses("lacks venv or ensurepip", "apt-get install python3-venv")


def test_python_without_headers(machine):
    machine.has("gcc")
    machine.program("bazel", bazel_that_echoes(VERSION))
    machine.program("python3", f"echo {machine.folder}")
    machine.refuses("has no headers (Python.h)", "apt-get install python3-dev")


def test_no_compiler(machine):
    machine.has("python3")
    machine.program("bazel", bazel_that_echoes(VERSION))
    machine.refuses("gcc cannot compile C++20", "apt-get install g++")


def test_another_architecture(compilers):
    compilers.program("uname", "echo Linux aarch64")
    compilers.refuses("Linux x86_64 only", "this is Linux aarch64", "bazelisk")


@pytest.mark.parametrize("program", DEBIAN)
def test_no_debian(compilers, program):
    for name in DEBIAN:
        compilers.program(name, "true")
    compilers.lacks(program)
    compilers.refuses(f"{program} is missing", "bazelisk")


def test_no_debian_mirror(compilers):
    for name in DEBIAN:
        compilers.program(name, "echo http://mirror.example/ubuntu/")
    compilers.refuses("no Debian mirror", "bazelisk")


def test_a_mirror_without_this_bazel(compilers):
    for name in DEBIAN:
        compilers.program(name, "[[ $1 == indextargets ]] && echo http://mirror.example/debian/; true")
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        compilers.refuses("Debian's keys are missing")
        return
    done = compilers.bazelw("info")
    assert done.returncode == 1
    *progress, last = done.stderr.splitlines()
    assert all(line.startswith("bazelw: ") for line in progress)
    assert f"no bazel-bootstrap {VERSION}" in last and "bazelisk" in last


def test_a_cache_folder_that_cannot_be_made(compilers):
    for name in DEBIAN:
        compilers.program(name, "[[ $1 == indextargets ]] && echo http://mirror.example/debian/; true")
    compilers.cache.write_text("a file")
    if Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        compilers.refuses("cannot write to the cache folder", "XDG_CACHE_HOME")
