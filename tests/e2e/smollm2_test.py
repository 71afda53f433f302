"""SmolLM2-135M end to end, in fp32, against transformers: tokens, logits, greedy text.

Both read the same GGUF file, each with its own code for its quantized tensors.
"""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flashflow import LLM, SamplingParams
from flashflow.evaluation.perplexity import encode_file, text_perplexity
from flashflow.loaders.resolve import resolve

NEW_TOKENS = 48
LONG = "The river was wide, and the boat was small; nobody knew how deep the water ran. " * 40

PROMPTS = {
    "plain": "The capital of France is",
    "code": "def fibonacci(n):\n    ",
    "unicode": "日本の首都は東京です。 Übermäßig — naïve café 😀 is",
    "whitespace": "   \n\n \t ",
    "one token": "A",
    "long": LONG,
}


@pytest.fixture(scope="module")
def gguf():
    return resolve("smollm2-135m").path


@pytest.fixture(scope="module")
def reference(gguf):
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def tokenizer(gguf):
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def llm(cache):
    return LLM("smollm2-135m", dtype="float32", device="cpu", cache_dir=cache)


@pytest.fixture(scope="module")
def greedy(llm):
    """All prompts in one batch, by name."""
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    return dict(zip(PROMPTS, llm.generate(list(PROMPTS.values()), params), strict=True))


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_tokens_are_those_of_transformers(name, tokenizer, greedy):
    assert greedy[name].prompt_token_ids == tokenizer(PROMPTS[name]).input_ids


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_are_those_of_transformers(name, llm, reference, greedy):
    """At each position, the largest difference is at most 1e-4 of the largest logit."""
    ids = greedy[name].prompt_token_ids + greedy[name].token_ids
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0].numpy()
    found = llm.logits(ids)
    assert found.shape == expected.shape and found.dtype == np.float32
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert error.max() <= 1e-4, f"position {error.argmax()} of {len(ids)}"


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_tokens_are_those_of_transformers(name, reference, greedy):
    ids = torch.tensor([greedy[name].prompt_token_ids])
    with torch.no_grad():
        whole = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
    assert greedy[name].token_ids == whole[0, ids.shape[1] :].tolist()
    assert greedy[name].finish_reason == "length"


@pytest.mark.parametrize("name", PROMPTS)
def test_stream_alone_gives_the_text_of_the_batch(name, llm, tokenizer, greedy):
    stream = llm.stream(PROMPTS[name], SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True))
    text = "".join(stream)
    assert text == greedy[name].text == tokenizer.decode(greedy[name].token_ids, skip_special_tokens=True)
    assert stream.output.token_ids == greedy[name].token_ids


def test_perplexity_is_that_of_transformers_to_four_digits(llm, reference, tokenizer, tmp_path):
    """By the loop of its documentation, but that each window's share in the mean is the tokens that it scores."""
    path = tmp_path / "text.txt"
    path.write_text("".join(PROMPTS.values()), encoding="utf-8")
    found = text_perplexity(llm.logits, encode_file(llm, path), context=192, stride=128, context_length=2048)
    ids = tokenizer(path.read_text(encoding="utf-8"), return_tensors="pt").input_ids
    nats, scored, previous_end = 0.0, 0, 0
    for begin in range(0, ids.shape[1], 128):
        end = min(begin + 192, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : previous_end - end] = -100
        with torch.no_grad():
            loss = reference(ids[:, begin:end], labels=labels).loss.item()
        targets = int((labels[:, 1:] != -100).sum())
        nats, scored, previous_end = nats + loss * targets, scored + targets, end
        if end == ids.shape[1]:
            break
    assert found.windows > 4 and found.scored_tokens == scored == ids.shape[1] - 1
    assert found.perplexity == pytest.approx(math.exp(nats / scored), rel=5e-5)


def test_chat_prompt_is_that_of_transformers(llm, tokenizer):
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert llm.encode_chat(messages) == expected
    answer = llm.chat(messages, SamplingParams(temperature=0, max_tokens=40))
    assert answer.prompt_token_ids == expected and "light" in answer.text


def test_answer_ends_at_the_models_own_end(llm):
    answer = llm.chat([{"role": "user", "content": "Say only: yes"}], SamplingParams(temperature=0, max_tokens=200))
    assert answer.finish_reason == "eos"
    assert llm.decode(answer.token_ids) == answer.text and "<|im_end|>" not in answer.text


# Runs in a process of its own; VmHWM is the most memory that it had.
_OPEN = """
import sys
from flashflow import LLM, SamplingParams
llm = LLM(sys.argv[1], device="cpu")
llm.generate(["The sky is"], SamplingParams(temperature=0, max_tokens=4))
assert "torch" not in sys.modules
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(peak.split()[1]) << 10, llm.engine_info()["weight_bytes_per_token"])
"""


def test_an_engine_needs_little_more_memory_than_its_weights(llm, cache):
    (engine,) = cache.rglob("*.ff")
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(engine)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, weights = map(int, done.stdout.split())
    assert peak <= 1.15 * weights + 200e6, "packed weights, and neither a second copy nor the file's pages beside them"
