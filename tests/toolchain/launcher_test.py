"""The binary behind `bazel run //python:python -- script.py`."""

import os
import subprocess
import sys
from pathlib import Path

LAUNCHER = os.path.abspath("tests/toolchain/python")


def run(*args: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = dict(os.environ, BUILD_WORKING_DIRECTORY=str(cwd))
    return subprocess.run([LAUNCHER, *args], env=env, input=stdin, text=True, capture_output=True, check=False)


def test_script_path_is_relative_to_the_users_folder(tmp_path):
    (tmp_path / "script.py").write_text("import sys, os; print(sys.argv, os.getcwd(), __name__)")
    done = run("script.py", "--flag", "a b", cwd=tmp_path)
    assert done.stdout == f"['script.py', '--flag', 'a b'] {tmp_path} __main__\n", done.stderr


def test_it_is_the_locked_interpreter_and_stdin_is_passed_on(tmp_path):
    done = run("-", cwd=tmp_path, stdin="import numpy, sys; print(sys.prefix)")
    assert done.stdout.strip() == sys.prefix, done.stderr


def test_launcher_folder_is_not_importable(tmp_path):
    done = run("-c", "import pytest_main", cwd=tmp_path)
    assert done.returncode == 1
    assert "No module named 'pytest_main'" in done.stderr


def test_exit_status_is_the_scripts(tmp_path):
    assert run("-c", "raise SystemExit(7)", cwd=tmp_path).returncode == 7
    assert run("missing.py", cwd=tmp_path).returncode == 2
