"""The peer computes a decoder: decoding token by token agrees with reading the whole. What steps cost, by hand."""

import pytest
import torch
from tools.bench.decoder_shape import SHAPES, DecoderShape
from tools.bench.torch_decoder import TorchDecoder

TINY = {
    "gpt2": DecoderShape("gpt2", 61, 32, 24, 2, 3, 3, 40, head_dim=8),
    "llama": DecoderShape("llama", 61, 32, 24, 2, 4, 2, 40, gated=True, head_dim=8),
}


@pytest.mark.parametrize("attention", ["sdpa", "products"])
@pytest.mark.parametrize("form", sorted(TINY))
def test_decoding_token_by_token_is_reading_the_whole(form, attention):
    model = TorchDecoder(TINY[form], torch.float32, "cpu", compiled=False, attention=attention)
    with torch.no_grad():
        for layer in model.layers:  # large enough that each token and position matters
            for tensor in (layer.qkv, layer.out, layer.up, layer.down):
                tensor.mul_(20)
        model.embedding.mul_(20)
    decoding = model.decoder(batch=2, context=0, slots=16)
    decoding.tokens.copy_(torch.tensor([[5], [9]]))
    seen = [decoding.tokens.clone()]
    for _ in range(9):
        decoding.step()
        assert torch.equal(decoding.tokens[:, 0], model.prefill(torch.cat(seen, dim=1)))
        seen.append(decoding.tokens.clone())
    assert len(torch.unique(torch.cat(seen, dim=1))) > 3, "the weights are such that something happens"
    decoding.rewind()
    assert decoding.position.item() == 0


def test_costs():
    shape = SHAPES["gpt2-124m"]
    assert shape.layer_parameters == 12 * 768 * 768
    flops, size = shape.decode_cost(batch=8, context=512, element_bytes=2)
    weights = 12 * 12 * 768 * 768 + 50257 * 768
    assert size == 2 * (weights + 8 * 512 * 12 * 2 * 768)
    assert flops == 8 * (2 * weights + 12 * 4 * 768 * 512)
    flops, _ = shape.prefill_cost(batch=1, tokens=1000, element_bytes=2)
    assert flops == pytest.approx(2 * (weights - 50257 * 768) * 1000 + 2 * 50257 * 768 + 12 * 2 * 768 * 1e6)
    assert SHAPES["llama-3.2-1b"].layer_parameters == 2048 * (2048 + 2 * 512 + 2048 + 3 * 8192)
