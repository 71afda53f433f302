"""ff_run as its user sees it: exit codes, output, errors of one line."""

import json
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FF_RUN = HERE / "ff_run"
ENGINE = HERE / "api" / "tiny.ff"


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it as from a shell, without the folder that `bazel run` would name."""
    return subprocess.run(
        [FF_RUN, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "BUILD_WORKING_DIRECTORY": environment.get("stands_in", os.getcwd())},
        check=False,
    )


def test_prints_ids_and_text() -> None:
    done = run(str(ENGINE), "--tokens=1,2,3", "--max-tokens=5", "--ignore-eos")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    ids, text = done.stdout.rstrip("\n").split("\n")
    tokens = [int(token) for token in ids.split(",")]
    assert len(tokens) == 5
    assert text == "".join(chr(ord("a") + token) if token < 26 else f" {token}" for token in tokens)


def test_json_has_the_same_and_more() -> None:
    arguments = (str(ENGINE), "--tokens=1,2,3", "--max_tokens=5", "--ignore-eos")
    plain, done = run(*arguments), run(*arguments, "--json")
    result = json.loads(done.stdout)
    assert [",".join(map(str, result["token_ids"])), result["text"]] == plain.stdout.rstrip("\n").split("\n")
    assert result["prompt_token_ids"] == [1, 2, 3]
    assert result["finish_reason"] == "length"
    assert set(result["timing"]) == {"load_s", "prefill_s", "decode_tok_s"}


def test_the_seed_decides() -> None:
    arguments = (str(ENGINE), "--tokens=1", "--max-tokens=20", "--temperature=2", "--ignore-eos")
    outputs = [run(*arguments, f"--seed={seed}").stdout for seed in (1, 1, 2)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_paths_are_relative_to_where_the_user_stands(tmp_path: Path) -> None:
    (tmp_path / "model.ff").write_bytes(ENGINE.read_bytes())
    assert run("model.ff", "--tokens=1", "--max-tokens=1", stands_in=str(tmp_path)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one engine file"),
        ((str(ENGINE),), "--tokens=1,2,3"),
        ((str(ENGINE), "--tokens=1,x"), '"x" is no token id'),
        ((str(ENGINE), "--tokens=100000"), "vocabulary"),
        ((str(ENGINE), "--tokens=1", "--temperature=-1"), "temperature is -1"),
        ((str(ENGINE), "--tokens=1", "--max-tokens=0"), "max_tokens is 0"),
        ((str(ENGINE), "--tokens=1", "--device=cuda"), 'use the device "cpu"'),
        (("absent.ff", "--tokens=1"), "absent.ff"),
        ((str(FF_RUN), "--tokens=1"), "safetensors"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("ff_run: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_shows_use_and_flags() -> None:
    done = run("--help")
    assert "ff_run model.ff --tokens=1,2,3" in done.stdout
    assert "--top_p" in done.stdout
