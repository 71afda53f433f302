"""LLM on device "cuda" where there is no GPU: the CUDA runtime and its kernels are stood in for by the host."""

import numpy as np
import pytest
import torch

from flashflow import LLM, SamplingParams
from flashflow.errors import FailedPreconditionError, UnsupportedError
from flashflow.tiny_model import byte_tokenizer, write_tiny_model

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["a", "hello world", "naïve 日本", "x" * 40]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def module(places):
    return write_tiny_model(places[0])


@pytest.fixture(scope="module")
def llm(places, module):
    return LLM(places[0], cache_dir=places[1], device="cuda", dtype="float32", max_batch=3)


def greedy_tokens(module, prompt, count):
    ids = byte_tokenizer().encode(prompt).ids
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(module(torch.tensor([ids]), torch.arange(len(ids))[None])[0, -1].argmax()))
    return ids[-count:]


def test_greedy_tokens_are_the_modules(llm, module):
    assert llm.device == "cuda"
    for prompt, output in zip(PROMPTS, llm.generate(PROMPTS, GREEDY), strict=True):  # more than fit into a batch
        assert output.token_ids == greedy_tokens(module, prompt, 12)
        assert output.text == byte_tokenizer().decode(output.token_ids)


def test_a_seed_draws_the_same_on_every_way(llm, places):
    params = SamplingParams(temperature=1.5, top_p=0.9, seed=3, max_tokens=12, ignore_eos=True)
    (alone,) = llm.generate(PROMPTS[1], params)
    assert [output.token_ids for output in llm.generate(PROMPTS, params)][1] == alone.token_ids
    assert "".join(llm.stream(PROMPTS[1], params)) == alone.text
    with_logprobs = SamplingParams(
        temperature=1.5, top_p=0.9, seed=3, max_tokens=12, ignore_eos=True, logprobs=2
    )  # which the host draws
    assert llm.generate(PROMPTS[1], with_logprobs)[0].token_ids == alone.token_ids
    invariant = LLM(places[0], cache_dir=places[1], device="cuda", dtype="float32", max_batch=3, batch_invariant=True)
    assert invariant.generate(PROMPTS, params)[1].token_ids == alone.token_ids


def test_auto_takes_it_in_bfloat16(places, module):
    llm = LLM(places[0], cache_dir=places[1])
    assert (llm.device, llm.dtype) == ("cuda", "bfloat16")
    assert len(llm.generate("hello", GREEDY)[0].token_ids) == 12


def test_int8_runs_there_too(places, module, llm):
    coded = LLM(places[0], cache_dir=places[1], device="cuda", dtype="int8")
    assert (coded.device, coded.dtype) == ("cuda", "int8")
    ids = llm.encode(PROMPTS[1])
    wide, logits = llm.logits(ids), coded.logits(ids)
    # Steps of 1/127 of the largest element, of rows and of weights, and bfloat16 between layers.
    assert 0 < np.linalg.norm(logits - wide) < 0.1 * np.linalg.norm(wide)
    assert len(coded.generate("hello", GREEDY)[0].token_ids) == 12


def test_int4_is_the_cpus_alone(places, tmp_path):
    with pytest.raises(UnsupportedError, match="int4 runs on a CPU alone"):
        LLM(places[0], cache_dir=tmp_path, device="cuda", dtype="int4")
    llm = LLM(places[0], cache_dir=tmp_path, device="cpu", dtype="int4")
    with pytest.raises(UnsupportedError, match="weight_scale is f16"):
        LLM(llm.engine_info()["path"], device="cuda")


def test_a_gpu_that_is_not_there_is_named(places, module):
    with pytest.raises(FailedPreconditionError, match="GPU 7"):
        LLM(places[0], cache_dir=places[1], device="cuda:7")
