"""tune as its user sees it: the space with reasons, a tuned database, resuming, errors of one line."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

TUNE = Path(__file__).parent / "tune_without_models"

SMALL = "linear/f32/m=1,n=48,k=32"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: the CPU is measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def home(tmp_path: Path, cache: Path) -> Path:
    (tmp_path / "cache").symlink_to(cache)
    return tmp_path


def tune(*arguments: str | Path, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "BUILD_WORKING_DIRECTORY": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        **variables,
    }
    return subprocess.run([TUNE, *arguments], capture_output=True, text=True, env=environment, check=False)


def tuned(*arguments: str | Path, home: Path) -> dict[str, Any]:
    done = tune(*arguments, "--json", home=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_space_is_printed_with_reasons(home: Path) -> None:
    done = tune("--shapes", "linear/bf16/m=64,n=3072,k=768; linear/f32/m=1,n=8,k=8", "--dry-run", "--device=h200",
                home=home)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "linear/bf16/m=64,n=3072,k=768: 7 to run, 3 refused",
        "  cuda.gemm_rows_sm90",
        "  cuda.gemm_skinny",
        "  cuda.gemm_sm90[tile_n=64]",
        "  cuda.gemm_sm90[tile_n=128]",
        "  cuda.gemm_sm90[tile_n=160]",
        "  cuda.gemm_sm90[tile_n=192]",
        "  cuda.gemm_portable",
        "  refused: cuda.gemm_rows_sm90[tile_rows=64]: it takes 64 by itself",
        "  refused: cuda.gemm_rows_sm90[tile_rows=128]: a sum is shared here, which tiles of 128 rows cannot",
        "  refused: cublaslt.matmul: it is cublaslt's, not ours",
        "linear/f32/m=1,n=8,k=8: 1 to run, 4 refused",
        "  cuda.gemm_portable",
        "  refused: cuda.gemm_rows_sm90 and 2 more: it does not take f32",
        "  refused: cublaslt.matmul: it is cublaslt's, not ours",
    ]
    assert "cublaslt is not available here" in tune(
        "--shapes", "linear/bf16/m=64,n=3072,k=768", "--dry-run", "--device", "h200", "--tactics=all", home=home
    ).stdout  # fmt: skip
    on_ampere = tuned(
        "--shapes", "linear/bf16/m=65,n=3072,k=768", "--dry-run", "--device=a100", "--database=my.json", home=home
    )
    assert on_ampere["problems"][0]["candidates"] == ["cuda.gemm_portable"]
    assert {row["tactic"]: row["reason"] for row in on_ampere["problems"][0]["refused"]} == {
        "cuda.gemm_skinny": "m is 65; it takes at most 64",
        "cuda.gemm_rows_sm90": "it needs compute capability 9.0; NVIDIA A100 SXM 80 GB has 8.0",
        "cuda.gemm_sm90": "it needs compute capability 9.0; NVIDIA A100 SXM 80 GB has 8.0",
        "cublaslt.matmul": "it is cublaslt's, not ours",
    }
    assert not (home / "my.json").exists()


def test_what_is_tuned_is_kept_and_not_tuned_again(home: Path) -> None:
    first = tuned("--shapes", SMALL, "--threads=1", "--memory-mib=8", "--budget=300", home=home)
    (problem,) = first["problems"]
    assert problem["problem"] == SMALL and problem["candidates"] > 10 and problem["us"] > 0
    assert problem["stop"] in ("settled", "near the floor")
    database = home / "cache" / "flashflow" / "tuning.json"
    assert first["database"] == str(database)
    (entry,) = json.loads(database.read_text())["entries"]
    assert (entry["kernel"], entry["dtype"], entry["shape"]) == ("cpu.linear.panel16", "f32", "m=1,n=48,k=32")
    assert entry["device"].endswith(", 1 thread") and entry["device"] == first["device"]
    assert entry["source"] == "measured" and entry["samples"] >= 3 and entry["us"] == problem["us"]

    again = tune("--shapes", SMALL, "--threads=1", "--memory-mib=8", home=home)
    assert again.returncode == 0, again.stderr
    assert again.stdout == "" and "0 tuned, 0 of them faster than the default; 1 known already" in again.stderr
    # Another size of the same bucket is known too, one of another is not; nor is one on another number of threads.
    text = "linear/f32/m=3,n=48,k=32"
    more = tune(
        "--shapes",
        f"{text};{text.replace('m=3', 'm=4')}",
        "--threads=1",
        "--memory-mib=8",
        "--database=my.json",
        home=home,
    )
    assert more.returncode == 0, more.stderr
    assert "2 tuned" in more.stderr and "round  1" in more.stderr
    assert len(json.loads((home / "my.json").read_text())["entries"]) == 1
    assert "1 tuned" in tune("--shapes", SMALL, "--threads=1", "--memory-mib=8", "--force", home=home).stderr


def test_out_of_time_is_said_and_nothing_is_kept(home: Path) -> None:
    done = tune("--shapes", SMALL, "--threads=1", "--memory-mib=8", "--budget=1e-9", "--database=my.json", home=home)
    assert done.returncode == 0 and "1 left for want of time" in done.stderr
    assert not (home / "my.json").exists()


def test_without_a_gpu_the_reason_is_said(home: Path) -> None:
    hidden = tune("--shapes=linear/bf16/m=64,n=64,k=64", "--device=cuda", home=home, CUDA_VISIBLE_DEVICES="")
    assert hidden.returncode == 1 and hidden.stderr.count("\n") == 1
    assert hidden.stderr.startswith(("tune: there is no GPU to time on: ", "tune: this build has no CUDA: "))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --model or --shapes"),
        (["--shapes=linear/bf16/m=1,n=1,k=1", "--model=m"], "give either --model or --shapes"),
        (["--shapes=linear"], "expected op/dtype/sizes"),
        (["--shapes=linear/f32/m=1,n=1"], "k is missing"),
        (["--model=missing.ffir"], "missing.ffir"),
        (["--shapes=linear/bf16/m=1,n=8,k=8", "--device=h200"], "others can be looked at with --dry-run"),
        (["--model=m", "--device=cuda"], "--device cuda takes --shapes"),
        (["--shapes=linear/bf16/m=1,n=8,k=8", "--device=h300", "--dry-run"], 'no device is called "h300"'),
        (["--shapes=linear/bf16/m=1,n=8,k=8", "--threads=-1"], "threads is -1"),
        (["--shapes=linear/bf16/m=1,n=8,k=8", "--budget=0"], "--budget must be above 0"),
        (["--shapes=linear/bf16/m=1,n=8,k=8", "--tactics=mine"], 'expected "ours" or "all"'),
        (["--shapes=linear/i8/m=1,n=8,k=8"], "cpu.linear.panel16 refused: it does not take i8"),
        (["--shapes=linear/f32/m=1,n=8,k=8", "--memory-mib=0"], "--memory-mib must be 1 to"),
        (["stray"], 'what is "stray"?'),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, home: Path) -> None:
    done = tune(*arguments, home=home)
    assert done.returncode == 1
    assert done.stdout == "" and done.stderr.startswith("tune: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
