"""Both kernels in Triton's interpreter on the CPU (a GPU's compiler where there is one), against attention in f64."""

import itertools

import pytest
import torch

from kernels.triton.testing import DEVICE, EPS, HALF  # isort: skip

import triton
from kernels.triton import fused_attention

SMALL = triton.Config({"BLOCK_M": 16, "BLOCK_N": 16, "DESCRIPTORS": False}, num_warps=4, num_stages=1)
DESCRIBED = triton.Config({"BLOCK_M": 16, "BLOCK_N": 16, "DESCRIPTORS": True}, num_warps=4, num_stages=1)


def reference(q, k, v, scale, causal, window):
    """[n, heads, d] against [m, kv_heads, d] in f64, and the largest |v| that each query may see."""
    n, heads, _ = q.shape
    m, kv_heads, _ = k.shape
    k, v = (t.double().repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
    scores = torch.einsum("nhd,mhd->hnm", q.double(), k) * scale
    i, j = torch.arange(n)[:, None] + (m - n), torch.arange(m)[None, :]
    seen = torch.ones(n, m, dtype=torch.bool)
    if causal:
        seen &= j <= i
    if window:
        seen &= j > i - window
    scores = scores.masked_fill(~seen, float("-inf"))
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    return torch.einsum("hnm,mhd->nhd", weights, v)


def tolerance(dtype, k, v, head_dim, scale):
    """The result and each probability are rounded to dtype; scores are sums of head_dim products in f32."""
    eps = EPS[dtype]
    growth = 2 * head_dim * scale * float(k.abs().max()) * 4 * EPS[torch.float32]  # |q| <= 4; moves e^score by as much
    return (3 * eps + 2 * growth + 64 * EPS[torch.float32]) * float(v.abs().max())


def rows(lengths, heads, head_dim, dtype, generator):
    return torch.randn(sum(lengths), heads, head_dim, generator=generator).clamp(-4, 4).to(dtype)


def starts(lengths):
    return torch.tensor(list(itertools.accumulate(lengths, initial=0)), dtype=torch.int32)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "causal", "window", "dtype", "config"),
    [
        (2, 2, 64, True, 0, torch.float32, SMALL),
        (4, 2, 16, True, 0, torch.float16, SMALL),
        (3, 1, 80, True, 0, torch.float32, SMALL),
        (2, 1, 32, False, 0, torch.float32, SMALL),
        (2, 2, 32, True, 5, torch.float32, SMALL),
        (2, 2, 32, True, 20, torch.float32, SMALL),
        (1, 1, 128, True, 0, HALF, SMALL),
        (4, 2, 16, True, 0, torch.float32, DESCRIBED),
        (2, 1, 32, True, 5, torch.float32, DESCRIBED),
    ],
)
def test_prefill_of_ragged_sequences(heads, kv_heads, head_dim, causal, window, dtype, config):
    generator = torch.Generator().manual_seed(head_dim + window)
    q_lengths, kv_lengths = [1, 17, 0, 33], [7, 17, 3, 40]
    q = rows(q_lengths, heads, head_dim, dtype, generator)
    k, v = (rows(kv_lengths, kv_heads, head_dim, dtype, generator) for _ in range(2))
    scale = head_dim**-0.5
    got = fused_attention.prefill(
        *(t.to(DEVICE) for t in (q, k, v, starts(q_lengths), starts(kv_lengths))),
        max(q_lengths),
        scale=scale,
        causal=causal,
        window=window,
        config=config,
    ).cpu()
    assert got.dtype == dtype
    q0 = kv0 = 0
    for n, m in zip(q_lengths, kv_lengths, strict=True):
        mine, keys, values = got[q0 : q0 + n], k[kv0 : kv0 + m], v[kv0 : kv0 + m]
        want = reference(q[q0 : q0 + n], keys, values, scale, causal, window)
        if n:
            assert (mine.double() - want).abs().max() <= tolerance(dtype, keys, values, head_dim, scale)
        q0, kv0 = q0 + n, kv0 + m


def test_prefill_reads_only_its_own_sequence():
    """A row's bits are the same whatever lies before and behind it: guards of NaN."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (rows([20], 2, 32, torch.float32, generator) for _ in range(3))

    def run(q_lengths, pad):
        guard = torch.full((pad, 2, 32), float("nan"))
        parts = [torch.cat([guard, t, guard]) for t in (q, k, v)]
        cut = starts(q_lengths).to(DEVICE)
        out = fused_attention.prefill(*(t.to(DEVICE) for t in parts), cut, cut, max(q_lengths), scale=0.2, config=SMALL)
        return out.cpu()[pad : pad + 20]

    assert torch.equal(run([20], 0), run([9, 20, 9], 9))


def paged(lengths, kv_heads, head_dim, page_size, dtype, generator):
    """A cache whose pages lie in random order, unwritten slots NaN, and the rows' keys and values."""
    pages = [-(-n // page_size) for n in lengths]
    order = torch.randperm(sum(pages) + 2, generator=generator)
    cache = torch.full((len(order), 2, kv_heads, page_size, head_dim), float("nan"), dtype=dtype)
    table = torch.full((len(lengths), max(pages + [1])), -1, dtype=torch.int32)
    kv = [[rows([n], kv_heads, head_dim, dtype, generator) for _ in range(2)] for n in lengths]
    taken = 0
    for row in range(len(lengths)):
        for p in range(pages[row]):
            table[row, p] = page = int(order[taken])
            taken += 1
            for which in range(2):
                part = kv[row][which][p * page_size : (p + 1) * page_size]
                cache[page, which, :, : len(part)] = part.transpose(0, 1)
    return cache, table, kv


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window", "splits", "dtype"),
    [
        (9, 3, 64, 0, 4, torch.float32),
        (2, 2, 80, 0, 1, torch.float32),
        (4, 1, 32, 9, 3, torch.float32),
        (4, 4, 64, 0, 8, HALF),
    ],
)
def test_decode_over_a_paged_cache(heads, kv_heads, head_dim, window, splits, dtype):
    generator = torch.Generator().manual_seed(splits)
    lengths = [1, 0, 65, 130, 16]
    cache, table, kv = paged(lengths, kv_heads, head_dim, 16, dtype, generator)
    q = rows([len(lengths)], heads, head_dim, dtype, generator)
    scale = head_dim**-0.5

    def run(which):
        arguments = (q[which], cache, torch.tensor(lengths, dtype=torch.int32)[which], table[which])
        return fused_attention.decode(
            *(t.contiguous().to(DEVICE) for t in arguments), scale=scale, window=window, splits=splits, block_n=16
        ).cpu()

    got = run(list(range(len(lengths))))
    for row, (k, v) in enumerate(kv):
        if lengths[row] == 0:
            assert torch.equal(got[row], torch.zeros_like(got[row]))
            continue
        want = reference(q[row : row + 1], k, v, scale, causal=True, window=window)
        assert (got[row : row + 1].double() - want).abs().max() <= tolerance(dtype, k, v, head_dim, scale)
        assert torch.equal(run([row])[0], got[row]), "a row's bits do not depend on the rows beside it"


def test_what_does_not_fit_is_named():
    q, k = torch.zeros(4, 3, 32), torch.zeros(4, 2, 32)
    cut = starts([4])
    with pytest.raises(ValueError, match="a multiple of 2 heads"):
        fused_attention.prefill(q, k, k, cut, cut, 4, scale=1.0)
    with pytest.raises(ValueError, match="k: expected contiguous torch.float32"):
        fused_attention.prefill(q, k[:, :1].half(), k[:, :1], cut, cut, 4, scale=1.0)
    with pytest.raises(ValueError, match="scale: expected a number above 0"):
        fused_attention.prefill(q, q, q, cut, cut, 4, scale=0.0)
    with pytest.raises(ValueError, match="window"):
        fused_attention.prefill(q, q, q, cut, cut, 4, scale=1.0, causal=False, window=3)
    with pytest.raises(ValueError, match="head_dim: expected 16 to 256"):
        fused_attention.prefill(q[..., :8], q[..., :8], q[..., :8], cut, cut, 4, scale=1.0)
