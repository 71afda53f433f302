"""The bundle as it is: nothing in it points outside, and its runner works where there is no GPU."""

import json
import os
import re
import subprocess
import sys
import tarfile

import pytest
from tools.gpu_bundle import make_bundle

SYSTEM = r"lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so\.\d+|ld-linux-x86-64\.so\.2"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    files = make_bundle.bundle_files(os.environ["BUNDLE_FILES"].split(), {}, "1234abc")
    make_bundle.write(folder / "a.tar.gz", files)
    with tarfile.open(folder / "a.tar.gz") as tar:
        assert all(entry.isreg() for entry in tar)
        tar.extractall(folder)
    return folder / make_bundle.TOP


def binaries(bundle):
    found = [path for path in bundle.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    return [path for path in found if path.suffix != ".cubin"]


def test_it_has_one_library_the_tests_and_the_kernels_in_python(bundle):
    names = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    programs = {name for name in names if name.endswith("_test_program")}
    assert {"kernels/cuda/kernels_test_program", "kernels/triton/triton_kernel_test_program"} < programs
    assert {"run.py", "kernels/triton/fused_mlp.py", "kernels/triton/fused_mlp_test.py", "tools/profile/ncu.py"} < names
    libraries = {"kernels/cuda/libflashflow_kernels.so", "kernels/cuda/libflashflow_cuda.so"}
    assert {name for name in names if name.endswith(".so")} == libraries
    assert {"runtime/api/time_engine", "runtime/api/random_engine", "tools/bench/graphs/gpt2-124m.json"} < names
    assert any(name.endswith(".sm_90.cubin") for name in names)


def test_binaries_need_what_every_linux_has_and_the_library_beside_them(bundle):
    needed_by = {}
    for path in binaries(bundle):
        dynamic = subprocess.run(["readelf", "-d", path], check=True, capture_output=True, text=True).stdout
        needed_by[path.name] = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
        foreign = [name for name in needed_by[path.name] if not re.fullmatch(SYSTEM, name)]
        assert foreign in ([], ["libflashflow_kernels.so"]), path.name
        for folders in re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic):
            assert all(folder.startswith("$ORIGIN") for folder in folders.split(":")), path.name
        if foreign:
            assert "$ORIGIN]" in dynamic or ":$ORIGIN:" in dynamic or "[$ORIGIN:" in dynamic, path.name
    assert "libflashflow_kernels.so" in needed_by["kernels_test_program"], "one library, not a copy a test"


def test_programs_load_and_say_that_there_is_no_gpu(bundle):
    done = subprocess.run([bundle / "kernels/cuda/kernels_test_program"], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.returncode in (0, 77), done.stdout


def test_the_runner_reports_that_there_is_no_gpu(bundle):
    command = [sys.executable, "run.py", "--out", "found"]
    done = subprocess.run(command, cwd=bundle, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.endswith("no GPU: nothing was run\n")
    found = json.loads((bundle / "found/report.json").read_text())
    assert found["commit"] == "1234abc" and found["steps"] == []


@pytest.mark.parametrize(
    "module", ["tools.bench.kernels_suite", "tools.bench.engine_suite", "tools.profile.ncu", "tools.profile.nsys"]
)
def test_its_modules_import_one_another(bundle, module):
    environment = {**os.environ, "PYTHONPATH": str(bundle)}
    code = f"import {module} as m, sys; sys.exit(0 if m.__file__.startswith({str(bundle)!r}) else m.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
