"""The benchmarks' command line: what cannot be measured is one line, not a traceback."""

import os
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--model", "nowhere"], 1, "error: there is no model 'nowhere'"),
        (["--json", "file/out.json"], 1, "error: --json: the folder file cannot be made: "),
        (["--dtype", "int3"], 2, "--dtype"),
        (["--prompt-tokens", "0"], 2, "a number below 1"),
        (["--prompt-tokens", ","], 2, "names no length"),
        (["--suite", "tpu"], 2, "unknown suite 'tpu'"),
        (["--suite", "kernels", "--kernels", "conv", "--list"], 2, "error: there is no kernel 'conv'"),
        (["--suite", "decode,tpu"], 2, "unknown suite 'decode,tpu'"),
        (["--suite", "decode", "--model", "gpt5"], 2, "error: there is no model 'gpt5'"),
        (["--suite", "prefill", "--batches", "0"], 2, "a number below 1"),
        (["--suite", "kernels", "--markdown", "file/page.md"], 1, "error: --markdown: the folder file cannot be made"),
    ],
)
def test_errors(tmp_path, words, status, message):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [BENCH, *words], env={**os.environ, "BUILD_WORKING_DIRECTORY": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
