"""The command line as a process: exit statuses, what goes to stdout and what to stderr. No model is needed here."""

import os
import subprocess
import sys

import pytest


def run(*words, cwd, stdin=None, **env):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(cwd / "xdg"), **env}
    return subprocess.run(
        [sys.executable, "-m", "flashflow.cli", *map(str, words)],
        cwd=cwd,
        env=environment,
        input=stdin,
        capture_output=True,
    )


def test_help_lists_the_verbs(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == b""
    for verb in (
        b"generate",
        b"train",
        b"export-fx-graph",
        b"export-checkpoint",
        b"calibrate",
        b"eval-perplexity",
        b"cache",
    ):
        assert verb in done.stdout


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        (
            "generate",
            "--model --prompt --prompt-file --max-tokens --temperature --top-k --top-p --min-p --repetition-penalty "
            "--seed --stop --ignore-eos --dtype --device --threads --chat --system --json",
        ),
        (
            "train",
            "--data --save-dir --preset --steps --batch-size --seq-len --lr --warmup --weight-decay --grad-clip "
            "--grad-accum --eval-every --save-every --seed --resume --keep-last --device --qat",
        ),
        ("export_fx_graph", "--model-name --out"),
        ("export_checkpoint", "--model --out-dir --out --dtype"),
        ("calibrate", "--model --data --out --method --percentile --smooth --context --tokens --sensitivity --report"),
        ("eval_latency", "--engine --model --batch --prompt-len --new-tokens --repeats --dtype --device --json"),
        ("eval_perplexity", "--model --data --context --stride --max-tokens --dtype --device --threads --json"),
    ],
)
def test_every_flag_is_there(tmp_path, verb, flags):
    done = run(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    words = done.stdout.decode().replace(",", " ").split()
    assert [flag for flag in flags.split() if flag not in words] == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["generate", "--no-such-flag"], "--no-such-flag"),
        (["generate", "--max-tokens", "many"], "--max-tokens"),
        (["generate", "--dtype", "int3"], "--dtype"),
        (["generate", "--device", "tpu"], "--device"),
        (["eval-latency"], "--engine or --model"),
        (["generate", "--prompt", "a", "--prompt-file", "b"], "--prompt-file"),
        (["generate", "--prompt", "a", "--system", "b"], "--system"),
        (["generat"], "generate"),
        (["train", "--data", "x"], "--save-dir"),
        (["export_checkpoint", "--model", "m"], "--out-dir"),
        (["export_checkpoint", "--model", "m", "--out", "a.ff", "--out-dir", "b"], "--out-dir"),
        (["export_fx_graph", "--out", "x"], "--model-name"),
    ],
)
def test_wrong_command_line_exits_with_2(tmp_path, words, named):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert named in done.stderr.decode() and done.stdout == b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-tokens", "0"], "error: max_tokens is 0: expected an integer from 1 to 2147483647"),
        (["--temperature", "-1"], "error: temperature is -1.0: expected a number at least 0"),
        (["--temperature", "nan"], "error: temperature is nan: expected"),
        (["--top-p", "0"], "error: top_p is 0.0: expected a number above 0 and at most 1"),
        (["--top-k", "-1"], "error: top_k is -1: expected"),
        (["--min-p", "2"], "error: min_p is 2.0: expected"),
        (["--repetition-penalty", "0"], "error: repetition_penalty is 0.0: expected"),
        (["--seed", "-1"], "error: seed is -1: expected"),
        (["--stop", ""], "error: stop is "),
        (["--prompt", ""], "error: --prompt: the prompt is empty"),
        (["--prompt-file", "missing.txt"], "error: missing.txt: No such file or directory"),
        (["--prompt-file", "latin1.txt"], "error: --prompt-file: latin1.txt is not UTF-8: byte 0xe9 at offset 3"),
        (["--prompt-file", "empty.txt"], "error: --prompt: the prompt is empty"),
        (["--prompt-file", "-"], "error: --prompt: the prompt is empty"),
    ],
)
def test_bad_value_is_one_error_line_and_exit_status_1(tmp_path, words, message):
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_bytes(b"\n")
    done = run("generate", *words, cwd=tmp_path, stdin=b"")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1 and done.stdout == b""
    assert lines[0].startswith(message) and len(lines) <= 2
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert not (tmp_path / "xdg").exists(), "the model was touched before the parameters were checked"


def test_debug_shows_where_an_error_comes_from(tmp_path):
    done = run("generate", "--max-tokens", "0", "--debug", cwd=tmp_path)
    assert done.returncode == 1 and b"Traceback" in done.stderr


def test_paths_are_relative_to_where_the_user_stands(tmp_path):
    user = tmp_path / "user"
    user.mkdir()
    (user / "prompt.txt").write_bytes(b"caf\xe9")
    done = run("generate", "--prompt-file", "prompt.txt", cwd=tmp_path, BUILD_WORKING_DIRECTORY=str(user))
    assert b"prompt.txt is not UTF-8" in done.stderr


def test_train_refuses_bad_data_by_its_offset(tmp_path):
    (tmp_path / "text").write_bytes(b"ab\xff")
    done = run("train", "--data", "text", "--save-dir", "run", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(b"error: --data: text is not UTF-8: byte 0xff at offset 2")
    done = run("train", "--data", "text", "--save-dir", "run", "--lr", "0", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(b"error: --lr is 0.0: expected")
    (tmp_path / "text").write_bytes(b"too short")
    done = run("train", "--data", "text", "--save-dir", "run", cwd=tmp_path)
    assert done.returncode == 1 and b"tokens: sequences of 128 need at least 258" in done.stderr


def test_cache_is_listed_and_cleared(tmp_path):
    engines = tmp_path / "xdg" / "flashflow" / "engines"
    engines.mkdir(parents=True)
    (engines / "abc.ff").write_bytes(bytes(2_000_000))
    (engines / "abc.json").write_text('{"model": "some-model", "dtype": "float32"}')
    listed = run("cache", "list", cwd=tmp_path).stdout.decode()
    assert "abc" in listed and "2.0 MB" in listed and "some-model float32" in listed and str(engines) in listed
    assert run("cache", "clear", cwd=tmp_path).stdout == b"deleted 1 engines, 2.0 MB\n"
    assert not list(engines.iterdir())


def test_reader_that_closes_the_pipe_ends_it_quietly(tmp_path):
    command = f'{sys.executable} -c \'from flashflow.cli.app import main; main(["cache", "list"])\''
    engines = tmp_path / "flashflow" / "engines"
    engines.mkdir(parents=True)
    for i in range(2000):  # more than a pipe holds
        (engines / f"{i:032d}.ff").touch()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} | head -n 1"], env=env, capture_output=True)
    assert done.stderr == b"" and done.returncode == 141
