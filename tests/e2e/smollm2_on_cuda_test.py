"""SmolLM2-135M on a GPU: skipped where torch finds none. The oracle is transformers on the same GPU, without TF32."""

import copy

import numpy as np
import pytest
import torch
from tests.e2e.quality import assert_fp32_logits
from transformers import AutoModelForCausalLM

from flashflow import LLM, SamplingParams
from flashflow.loaders.resolve import resolve

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

TEXT = "Once upon a time, in a village by the sea, there lived a woman who could read the weather. 東京 def f(x):"
PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
    "In 1969, humans first",
]
GREEDY = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def llm(cache):
    return LLM("smollm2-135m", dtype="float32", device="cuda", cache_dir=cache)


@pytest.fixture(scope="module")
def reference():
    torch.backends.cuda.matmul.allow_tf32 = False
    path = resolve("smollm2-135m").path
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval().cuda()


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids], device="cuda")).logits[0].float().cpu().numpy()


def test_float32_logits_are_those_of_transformers(llm, reference):
    ids = llm.encode(TEXT)
    assert_fp32_logits(llm.logits(ids), logits_of(reference, ids))


def test_float32_greedy_tokens_are_those_of_transformers(llm, reference):
    reference.generation_config.eos_token_id = None
    for output in llm.generate(PROMPTS, GREEDY):
        ids = torch.tensor([output.prompt_token_ids], device="cuda")
        with torch.no_grad():
            whole = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False)
        assert output.token_ids == whole[0, ids.shape[1] :].tolist()


def test_bfloat16_is_no_further_from_fp32_than_twice_torch_bfloat16(cache, reference):
    llm = LLM("smollm2-135m", dtype="bfloat16", device="cuda", cache_dir=cache)
    ids = llm.encode(TEXT)
    expected = logits_of(reference, ids)
    theirs = logits_of(copy.deepcopy(reference).to(torch.bfloat16), ids)
    ours, bound = np.abs(llm.logits(ids) - expected).max(), 2 * np.abs(theirs - expected).max()
    print(f"|ours - fp32| = {ours:.3g}, |torch bf16 - fp32| = {bound / 2:.3g}")
    assert 0 < ours < bound


def test_batch_invariant_tokens_are_the_same_alone_and_in_a_batch(cache):
    llm = LLM("smollm2-135m", dtype="bfloat16", device="cuda", cache_dir=cache, batch_invariant=True)
    alone = [llm.generate([prompt], GREEDY)[0].token_ids for prompt in PROMPTS]
    together = [output.token_ids for output in llm.generate(PROMPTS * 12, GREEDY)]
    assert together == alone * 12
