"""SmolLM2-135M in bfloat16: at most twice as far from fp32 as torch's own bfloat16."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from flashflow import LLM
from flashflow.loaders.resolve import resolve

TEXT = "Once upon a time, in a village by the sea, there lived a woman who could read the weather. 東京 def f(x):"


def test_logits_are_no_further_from_fp32_than_torch_bfloat16(tmp_path):
    path = resolve("smollm2-135m").path
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    llm = LLM("smollm2-135m", dtype="bfloat16", device="cpu", cache_dir=tmp_path, max_batch=1)
    ids = llm.encode(TEXT)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
        theirs = model.to(torch.bfloat16)(torch.tensor([ids])).logits[0].float().numpy()
    found = llm.logits(ids)
    ours, bound = np.abs(found - expected).max(), 2 * np.abs(theirs - expected).max()
    print(f"|ours - fp32| = {ours:.3g}, |torch bf16 - fp32| = {bound / 2:.3g}")
    assert 0 < ours < bound
