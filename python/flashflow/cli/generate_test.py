"""generate and export as processes, on a tiny model: what a user at a shell sees."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flashflow import SamplingParams
from flashflow.cli.app import app
from flashflow.llm import LoadTiming
from flashflow.outputs import RequestOutput, RequestTiming
from flashflow.tiny_model import byte_tokenizer, write_tiny_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model; engines are cached below it."""
    path = tmp_path_factory.mktemp("home")
    write_tiny_model(path / "model")
    return path


def run(home, *words, stdin=None, status=0):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(home / "xdg")}
    done = subprocess.run(
        [sys.executable, "-m", "flashflow.cli", *map(str, words)], cwd=home, env=env, input=stdin, capture_output=True
    )
    assert done.returncode == status, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


def generate(home, *words, **options):
    return run(home, "generate", "--model", "model", "--max-tokens", "8", "--ignore-eos", *words, **options)


def test_text_goes_to_stdout_and_the_rest_to_stderr(home):
    text, said = generate(home, "--prompt", "hello")
    again, said_again = generate(home, "--prompt", "hello")
    assert text == again and text.endswith("\n") and len(text) > 1
    assert "compiling" in said and "compiling" not in said_again and "opening" in said_again
    assert re.search(r"ready after \d+\.\d s", said)
    assert re.search(r"5 prompt tokens in \d+\.\d\d s; 8 tokens at \d+\.\d tokens/s \(length\)", said)


def test_profile_prints_what_operations_take(home):
    text, said = generate(home, "--prompt", "hello", "--profile", "--quiet")
    assert text == generate(home, "--prompt", "hello")[0]
    assert "a step of 1 token with 13 in the KV cache" in said
    assert "a step of 5 tokens with 5 in the KV cache" in said
    totals = [line.split() for line in said.splitlines() if line.startswith("all ")]
    assert len(totals) == 2 and all(float(line[5]) > 0 and line[6].endswith("%") for line in totals)
    assert list((home / "xdg" / "flashflow" / "devices").iterdir())


def test_json_is_one_object(home):
    text, _ = generate(home, "--prompt", "hello")
    out, _ = generate(home, "--prompt", "hello", "--json")
    result = json.loads(out)
    assert list(result) == ["prompt", "prompt_token_ids", "token_ids", "text", "finish_reason", "timing"]
    assert result["prompt"] == "hello" and result["prompt_token_ids"] == byte_tokenizer().encode("hello").ids
    assert len(result["token_ids"]) == 8 and result["finish_reason"] == "length"
    assert text.removesuffix("\n") == result["text"].removesuffix("\n")
    assert set(result["timing"]) == {"load_s", "compile_s", "prefill_s", "decode_tok_s"}
    assert result["timing"]["compile_s"] == 0.0
    assert all(isinstance(v, float) and v >= 0 for v in result["timing"].values())


class RecordingModel:
    """Stands in for LLM: keeps what it was asked, and answers in one word."""

    asked = {}
    has_chat_template = False
    dtype, device, timing = "bfloat16", "cpu", LoadTiming(0.0, 0.0)

    def __init__(self, model, progress, **options):
        self.asked.clear()
        self.asked.update(options, model=model)

    def stream(self, prompt, params):
        self.asked.update(prompt=prompt, params=params)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __iter__(self):
        return iter(["naï", "ve\n"])

    output = RequestOutput("p", [1], "naïve\n", [2, 3], "length", None, None, RequestTiming(0.0, 0.0, 0.0))


def test_every_option_reaches_the_model(monkeypatch, capsys):
    monkeypatch.setattr("flashflow.llm.LLM", RecordingModel)
    words = (
        "--model m --prompt p --dtype bfloat16 --kv-dtype int8 --device cpu --threads 3 --tuning t --cache-dir c"
        " --ignore-eos --stop x --stop y"
    )
    sampling = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.75,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "max_tokens": 5,
        "seed": 7,
    }
    options = [word for name, v in sampling.items() for word in ("--" + name.replace("_", "-"), str(v))]
    app(["generate", *words.split(), *options], standalone_mode=False)
    params = RecordingModel.asked.pop("params")
    assert params == SamplingParams(**sampling, stop=params.stop, ignore_eos=True) and list(params.stop) == ["x", "y"]
    assert RecordingModel.asked == {
        "model": "m",
        "prompt": "p",
        "dtype": "bfloat16",
        "kv_dtype": "int8",
        "device": "cpu",
        "threads": 3,
        "tuning": Path("t"),
        "cache_dir": Path("c"),
        "max_batch": 1,
    }
    assert capsys.readouterr().out == "naïve\n"  # one newline at the end, its own


def test_json_keeps_letters_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr("flashflow.llm.LLM", RecordingModel)
    app(["generate", "--prompt", "ü", "--json"], standalone_mode=False)
    assert '"prompt": "ü"' in (out := capsys.readouterr().out) and '"text": "naïve\\n"' in out


def test_quiet_says_nothing(home):
    assert generate(home, "--prompt", "hello", "-q")[1] == ""


def test_prompt_from_a_file_and_from_stdin(home):
    (home / "prompt.txt").write_text("naïve\n", encoding="utf-8")
    from_file = json.loads(generate(home, "--prompt-file", "prompt.txt", "--json")[0])
    from_stdin = json.loads(generate(home, "--prompt-file", "-", "--json", stdin="naïve\n".encode())[0])
    assert from_file["prompt"] == from_stdin["prompt"] == "naïve"
    assert from_file["token_ids"] == from_stdin["token_ids"]


def test_chat_and_system(home):
    out, _ = generate(home, "--prompt", "hi", "--chat", "--system", "be", "--json")
    result = json.loads(out)
    assert byte_tokenizer().decode(result["prompt_token_ids"], skip_special_tokens=False) == (
        "<|system|>be<|end|><|user|>hi<|end|><|model|>"
    )
    assert result["prompt"] == "hi"


def test_without_a_prompt_there_is_an_example(home):
    out, said = generate(home, "--json")
    prompt = json.loads(out)["prompt"]
    assert prompt and f"prompt: {prompt}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "x" * 64], "64 tokens: the model's context of 64"),
        (["--model", "nowhere"], "there is no model 'nowhere'"),
        (["--device", "cuda"], "cuda"),
        (["--prompt-file", "prompt.bin"], "offset 1"),
    ],
)
def test_what_cannot_be_done_is_one_error(home, words, message):
    (home / "prompt.bin").write_bytes(b"a\xff")
    out, said = generate(home, *words, status=1)
    errors = [line for line in said.splitlines() if not line.startswith("[") and "ready after" not in line]
    assert out == "" and errors[0].startswith("error: ") and message in errors[0]
    assert [line.split(":")[0] for line in errors[1:]] in ([], ["hint"])


@pytest.mark.parametrize(
    ("out", "message"),
    [("engine.bin", "engine.bin does not end in .ff"), ("model/config.json/x.ff", "--out: the folder")],
)
def test_engine_that_cannot_be_written_is_refused_before_the_export(home, out, message):
    printed, said = run(home, "export_checkpoint", "--model", "model", "--out", out, status=1)
    assert printed == "" and message in said and "exporting" not in said


def test_engine_of_export_checkpoint_generates_the_same(home):
    expected = json.loads(generate(home, "--prompt", "hello", "--json")[0])
    out, said = run(home, "export_checkpoint", "--model", "model", "--out-dir", "export")
    assert out == "export/model.ff\n" and " MB" in said
    run(home, "export_checkpoint", "--model", "model", "--out", "narrow.ff", "--dtype", "bfloat16")
    found = json.loads(generate(home, "--model", "export/model.ff", "--prompt", "hello", "--json")[0])
    assert found["token_ids"] == expected["token_ids"]
    generate(home, "--model", "narrow.ff", "--prompt", "hello", "--dtype", "bfloat16")
    _, said = generate(home, "--model", "narrow.ff", "--prompt", "hello", "--dtype", "float32", status=1)
    assert "float32" in said and "bfloat16" in said


def test_graph_of_export_fx_graph(home):
    out, _ = run(home, "export_fx_graph", "--model-name", "model", "--out", "graphs/graph.json")
    assert out == "graphs/graph.json\n"
    graph = json.loads((home / "graphs" / "graph.json").read_text())
    assert graph["format"] == "flashflow.graph" and graph["nodes"]
