"""The bundle's runner with programs, a driver and tools that are scripts."""

import json

import pytest
from tools.gpu_bundle import run


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle with nothing to run, on a machine with no GPU and no tools."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "COMMIT").write_text("1234abc\n")
    (tmp_path / "environment.json").write_text('{"CUBINS": "a b"}')
    monkeypatch.setattr(run, "TOP", tmp_path)
    monkeypatch.setattr(run, "find_tool", lambda name: str(tmp_path / name) if (tmp_path / name).exists() else "")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    script(tmp_path / "bin/nvidia-smi", "exit 9")
    return tmp_path


@pytest.fixture
def bundle_on_gpu(bundle):
    script(bundle / "bin/nvidia-smi", "echo NVIDIA H200, 580.1, 143771 MiB, 9.0")
    return bundle


def report(folder):
    return json.loads((folder / "out/report.json").read_text())


def run_in(bundle, *words):
    return run.main(["--out", str(bundle / "out"), *words])


def test_without_a_gpu_it_says_so_and_writes_its_report(bundle, capsys):
    script(bundle / "kernels/cuda/a_test_program", "exit 1")
    assert run_in(bundle) == 2
    assert capsys.readouterr().out.endswith("no GPU: nothing was run\n")
    found = report(bundle)
    assert found["probe"]["gpu"] == "none: nvidia-smi finds none"
    assert found["probe"]["ncu"] == "missing" and found["commit"] == "1234abc" and found["steps"] == []


def test_programs_are_run_and_judged_by_their_exit_status(bundle_on_gpu, capsys):
    programs = {
        "good": 'echo "gemm: 12 checks, 0 failures"\necho "norm: 3 checks, 0 failures"; test "$CUBINS" = "a b"',
        "bad": 'echo "[==========] 7 tests from 2 suites ran."; echo "[  FAILED  ] 2 tests, listed below:"; exit 1',
        "other_gpu": "echo skipped: needs a GPU of compute capability 9.0; exit 77",
        "crash": "kill -11 $$",
    }
    for name, text in programs.items():
        script(bundle_on_gpu / f"kernels/cuda/{name}_test_program", text)
    assert run_in(bundle_on_gpu, "--steps", "programs") == 1
    steps = {step["name"]: step for step in report(bundle_on_gpu)["steps"]}
    assert {name: step["status"] for name, step in steps.items()} == {
        "bad_test": "failed",
        "crash_test": "failed",
        "good_test": "passed",
        "other_gpu_test": "skipped",
    }
    assert steps["good_test"]["detail"] == "15 checks, 0 failures" and steps["good_test"]["log"] == ""
    assert steps["bad_test"]["detail"] == "7 tests, 2 failures" and "listed below" in steps["bad_test"]["log"]
    assert steps["other_gpu_test"]["detail"] == "skipped: needs a GPU of compute capability 9.0"
    assert steps["crash_test"]["detail"].startswith("ended by signal 11")
    assert "good_test       passed " in capsys.readouterr().out


def test_a_skipped_step_is_no_failure_and_a_slow_one_is(bundle_on_gpu):
    script(bundle_on_gpu / "kernels/a_test_program", "exit 77")
    assert run_in(bundle_on_gpu, "--steps", "programs") == 0
    script(bundle_on_gpu / "kernels/a_test_program", "exec tail -f /dev/null")
    assert run_in(bundle_on_gpu, "--steps", "programs", "--timeout", "0.2") == 1
    assert [step["status"] for step in report(bundle_on_gpu)["steps"]] == ["timed out"]


def test_python_tests_are_counted(bundle_on_gpu):
    tests = bundle_on_gpu / "kernels/some_test.py"
    tests.parent.mkdir()
    tests.write_text("import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('no')\n")
    assert run_in(bundle_on_gpu, "--steps", "python") == 0
    assert report(bundle_on_gpu)["steps"][0]["detail"] == "2 tests, 0 failures, 0 errors, 1 skipped"
    tests.write_text("def test_a(): assert 0\n")
    assert run_in(bundle_on_gpu, "--steps", "python") == 1


def test_sanitizer(bundle_on_gpu):
    for name in ("kernels", "device_info"):
        script(bundle_on_gpu / f"kernels/{name}_test_program", "")
    assert run_in(bundle_on_gpu, "--steps", "", "--sanitizer", "memcheck") == 0
    assert {step["status"] for step in report(bundle_on_gpu)["steps"]} == {"skipped"}
    said = 'echo "$@" > {}/$2_$(basename "$5"); echo "========= ERROR SUMMARY: 3 errors"; exit 1'
    script(bundle_on_gpu / "compute-sanitizer", said.format(bundle_on_gpu))
    assert run_in(bundle_on_gpu, "--steps", "", "--sanitizer", "memcheck", "--sanitize", "norm,gemm") == 1
    assert [(s["status"], s["detail"]) for s in report(bundle_on_gpu)["steps"]] == 2 * [
        ("failed", "ERROR SUMMARY: 3 errors")
    ]
    assert (bundle_on_gpu / "memcheck_kernels_test_program").read_text().endswith("_program norm gemm\n")
    assert (bundle_on_gpu / "memcheck_device_info_test_program").read_text().endswith("_program\n")


def test_the_suites_reports_are_in_the_bundles(bundle_on_gpu):
    suite = "import sys\nout = sys.argv[sys.argv.index('--json') + 1]\n"
    for module, shapes in (("kernels_suite", 2), ("engine_suite", 3)):
        path = bundle_on_gpu / f"tools/bench/{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(suite + f"open(out, 'w').write('{{\"results\": {[0] * shapes}}}')\nprint(sys.argv[1:])\n")
    assert run_in(bundle_on_gpu, "--steps", "bench,engine", "--engine", "--models gpt2-xl") == 0
    found = report(bundle_on_gpu)
    assert [(step["name"], step["detail"]) for step in found["steps"]] == [
        ("bench", "2 shapes"),
        ("engine", "3 shapes"),
    ]
    assert found["bench"] == {"results": [0, 0]} and found["engine"] == {"results": [0, 0, 0]}
    assert "'--models', 'gpt2-xl'" in (bundle_on_gpu / "out/engine.log").read_text()
    run_in(bundle_on_gpu, "--steps", "engine")
    assert "'decode,prefill,cold'" in (bundle_on_gpu / "out/engine.log").read_text()


def test_an_unknown_step_is_an_error(bundle, capsys):
    with pytest.raises(SystemExit) as ended:
        run_in(bundle, "--steps", "bench,tests")
    assert ended.value.code == 2 and "there is no 'tests'" in capsys.readouterr().err
