"""Attention in one pass over the keys: prefill over packed tokens, decode over a paged KV cache.

The softmax runs along (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention): each block of keys brings its
largest score, and what was summed before is scaled to the new maximum. Decode splits a long context over programs and
merges their partial sums in a second, small launch (Dao et al. 2023, Flash-Decoding).

Scores and sums are f32 whatever the dtype of q, k and v, which is that of the result.
"""

import torch
import triton
import triton.language as tl
from kernels.triton.descriptors import has_descriptors, scratch_memory

_LOG2_E = 1.4426950408889634


def _prefill_configs() -> list[triton.Config]:
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "DESCRIPTORS": descriptors}, num_warps=warps, num_stages=stages)
        for m, n, descriptors, warps, stages in [
            (128, 64, True, 8, 3),
            (128, 128, True, 8, 3),
            (128, 128, False, 8, 2),
            (128, 64, False, 8, 3),
            (64, 64, False, 4, 3),
            (64, 128, False, 4, 2),
            (64, 32, False, 4, 4),
        ]
    ]


def _prune(configs: list[triton.Config], arguments: dict, **constants: int) -> list[triton.Config]:
    head_dim = constants["HEAD_DIM"]
    pitch = constants["KV_HEADS"] * head_dim * arguments["k"].element_size()
    allowed = head_dim == constants["BLOCK_D"] and has_descriptors(pitch)
    return [config for config in configs if allowed or not config.kwargs["DESCRIPTORS"]]


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    acc,
    most,
    total,
    q_tile,
    k,
    v,
    begin,
    end,
    queries,
    past,
    window,
    kv_count,
    scale_log2,
    column,
    STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Brings keys `begin` ... `end` into the sums. Without MASKED all of them exist and every query sees them.

    k and v point to the sequence's first key of this head, or describe its keys, this head's at `column`.
    """
    lanes = tl.arange(0, BLOCK_N)
    channels = tl.arange(0, BLOCK_D)
    offsets = lanes[:, None] * STRIDE + channels[None, :]
    for first in tl.range(begin, end, BLOCK_N):
        keys = first + lanes
        at = tl.cast(first, tl.int64) * STRIDE + offsets
        if DESCRIPTORS:  # which give zeros past the last key
            k_tile = k.load([first, column])
            v_tile = v.load([first, column])
        elif MASKED:
            inside = (keys < kv_count)[:, None] & (channels < HEAD_DIM)[None, :]
            k_tile = tl.load(k + at, mask=inside, other=0.0)
            v_tile = tl.load(v + at, mask=inside, other=0.0)
        elif BLOCK_D != HEAD_DIM:
            k_tile = tl.load(k + at, mask=(channels < HEAD_DIM)[None, :], other=0.0)
            v_tile = tl.load(v + at, mask=(channels < HEAD_DIM)[None, :], other=0.0)
        else:
            k_tile = tl.load(k + at)
            v_tile = tl.load(v + at)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        if MASKED:
            seen = (keys < kv_count)[None, :]
            if CAUSAL:
                seen = seen & (keys[None, :] <= queries[:, None] + past)
            if WINDOWED:
                seen = seen & (keys[None, :] > queries[:, None] + past - window)
            scores = tl.where(seen, scores, float("-inf"))
        # Scaled where it costs nothing: once for the maximum, then within the exponent's subtraction.
        new_most = tl.maximum(most, tl.max(scores, 1) * scale_log2)
        # A row that has seen no key yet has no maximum: its sums are zeros, whatever they are scaled by.
        base = tl.where(new_most == float("-inf"), 0.0, new_most)
        weights = tl.exp2(scores * scale_log2 - base[:, None])
        kept = tl.exp2(most - base)
        total = total * kept + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * kept[:, None], input_precision="ieee")
        most = new_most
    return acc, most, total


@triton.jit
def prefill_kernel(
    q,
    k,
    v,
    o,
    q_start,
    kv_start,
    scale_log2,  # scale * log2(e): exponentials are powers of two
    window,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,  # HEAD_DIM or the next power of two
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
    LENGTH: tl.constexpr,  # of the longest sequence, as a power of two: only for tuning apart
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DESCRIPTORS: tl.constexpr,  # read keys and values by the copy engine; HEAD_DIM is BLOCK_D then
) -> None:
    """BLOCK_M queries of one head of one sequence. Long sequences' last blocks have the most keys: they go first."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    row = tl.program_id(2)
    q_first = tl.load(q_start + row).to(tl.int64)
    q_count = (tl.load(q_start + row + 1) - q_first).to(tl.int32)
    kv_first = tl.load(kv_start + row).to(tl.int64)
    kv_count = (tl.load(kv_start + row + 1) - kv_first).to(tl.int32)
    if block * BLOCK_M >= q_count:
        return

    first_query = block * BLOCK_M
    queries = first_query + tl.arange(0, BLOCK_M)
    channels = tl.arange(0, BLOCK_D)
    STRIDE: tl.constexpr = KV_HEADS * HEAD_DIM
    column = head // (HEADS // KV_HEADS) * HEAD_DIM
    q_at = (q_first + queries)[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + channels[None, :]
    in_q = (queries < q_count)[:, None] & (channels < HEAD_DIM)[None, :]
    q_tile = tl.load(q + q_at, mask=in_q, other=0.0)

    # Query i sees keys up to i + past, and with a window only the last `window` of these. In between lie the blocks of
    # keys that every query of this program sees, whole.
    past = kv_count - q_count
    begin = 0
    end = kv_count
    whole_begin = 0
    whole_end = kv_count // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.minimum(kv_count, first_query + BLOCK_M + past)
        whole_end = tl.minimum(whole_end, (first_query + past + 1) // BLOCK_N * BLOCK_N)
    if WINDOWED:
        begin = tl.maximum(0, first_query + past - window + 1) // BLOCK_N * BLOCK_N
        whole_begin = tl.cdiv(tl.maximum(0, first_query + BLOCK_M + past - window), BLOCK_N) * BLOCK_N
        whole_begin = tl.minimum(whole_begin, whole_end)

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    k += kv_first * STRIDE
    v += kv_first * STRIDE
    if DESCRIPTORS:
        k = tl.make_tensor_descriptor(k, [kv_count, STRIDE], [STRIDE, 1], [BLOCK_N, BLOCK_D])
        v = tl.make_tensor_descriptor(v, [kv_count, STRIDE], [STRIDE, 1], [BLOCK_N, BLOCK_D])
    else:
        k += column
        v += column
    if WINDOWED:
        acc, most, total = _attend(
            acc, most, total, q_tile, k, v, begin, whole_begin, queries, past, window, kv_count, scale_log2, column,
            STRIDE, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, WINDOWED, DESCRIPTORS, MASKED=True,
        )  # fmt: skip
    acc, most, total = _attend(
        acc, most, total, q_tile, k, v, whole_begin, whole_end, queries, past, window, kv_count, scale_log2, column,
        STRIDE, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, WINDOWED, DESCRIPTORS, MASKED=False,
    )  # fmt: skip
    acc, most, total = _attend(
        acc, most, total, q_tile, k, v, whole_end, end, queries, past, window, kv_count, scale_log2, column,
        STRIDE, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, WINDOWED, DESCRIPTORS, MASKED=True,
    )  # fmt: skip
    # A query that sees no key gives zeros.
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    tl.store(o + q_at, acc.to(o.dtype.element_ty), mask=in_q)


tuned_prefill_kernel = triton.autotune(
    configs=_prefill_configs(),
    key=["HEADS", "KV_HEADS", "HEAD_DIM", "CAUSAL", "WINDOWED", "LENGTH"],
    prune_configs_by={"early_config_prune": _prune},
)(prefill_kernel)


def prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_start: torch.Tensor,
    kv_start: torch.Tensor,
    max_q_tokens: int,
    *,
    scale: float,
    causal: bool = True,
    window: int = 0,
    config: triton.Config | None = None,
) -> torch.Tensor:
    """Attention of packed sequences: sequence r has queries q_start[r] ... and keys kv_start[r] ..., its last ones.

    Parameters
    ----------
    q : [Tq, heads, head_dim]; k, v : [Tkv, kv_heads, head_dim]. Contiguous, of one float dtype; heads a multiple of
        kv_heads, head_dim 16 ... 256.
    q_start, kv_start : i32[R + 1], rising from 0. A sequence has at least as many keys as queries where `causal`.
    max_q_tokens : the most queries of a sequence.
    scale : of the products, above 0; usually head_dim ** -0.5.
    causal : query i of n sees keys 0 ... i + (keys - n).
    window : above 0, only the last `window` of the keys that a causal query sees.
    config : block sizes; tuned on first use of a shape if None. Sets Triton's allocator of scratch memory.

    Returns
    -------
    [Tq, heads, head_dim] of q's dtype.
    """
    tokens, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    _check(q, k, v, heads, kv_heads, head_dim)
    if not scale > 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    if window < 0 or (window > 0 and not causal):
        raise ValueError(f"window: expected 0, or above 0 with causal attention, got {window} with causal={causal}")
    o = torch.empty_like(q)
    if tokens == 0:
        return o
    constants = dict(
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=triton.next_power_of_2(head_dim),
        CAUSAL=causal,
        WINDOWED=window > 0,
        LENGTH=triton.next_power_of_2(max_q_tokens),
    )
    triton.set_allocator(scratch_memory)
    arguments = (q, k, v, o, q_start, kv_start, scale * _LOG2_E, window)

    def grid(meta: dict) -> tuple[int, int, int]:
        return (triton.cdiv(max_q_tokens, meta["BLOCK_M"]), heads, len(q_start) - 1)

    if config is None:
        tuned_prefill_kernel[grid](*arguments, **constants)
    else:
        prefill_kernel[grid](*arguments, **constants, **config.all_kwargs())
    return o


@triton.jit
def decode_kernel(
    q,
    cache,  # one layer: [pages, 2, KV_HEADS, PAGE_SIZE, HEAD_DIM]
    kv_len,
    block_table,
    table_width,
    partial,  # f32[rows, HEADS, splits, BLOCK_D + 2]: sums, then the maximum and the total
    scale_log2,
    window,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    WINDOWED: tl.constexpr,
    BLOCK_H: tl.constexpr,  # query heads of a key head, at least 16 as tl.dot wants
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """One split of the context of one row, for all query heads that share a key head."""
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    SHARED: tl.constexpr = HEADS // KV_HEADS
    length = tl.load(kv_len + row)
    begin = 0
    if WINDOWED:
        begin = tl.maximum(0, length - window)
    # Splits of whole blocks; how many keys one gets depends on this row's length alone.
    blocks = tl.cdiv(length - begin, BLOCK_N)
    per_split = tl.cdiv(blocks, SPLITS) * BLOCK_N
    first_key = begin + split * per_split
    last_key = tl.minimum(length, first_key + per_split)

    lanes = tl.arange(0, BLOCK_H)
    heads = kv_head * SHARED + lanes
    channels = tl.arange(0, BLOCK_D)
    in_d = (channels < HEAD_DIM)[None, :]
    q_at = row.to(tl.int64) * (HEADS * HEAD_DIM) + heads[:, None] * HEAD_DIM + channels[None, :]
    q_tile = tl.load(q + q_at, mask=(lanes < SHARED)[:, None] & in_d, other=0.0)

    most = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    for first in tl.range(first_key, last_key, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        live = keys < last_key
        pages = tl.load(block_table + row * table_width + keys // PAGE_SIZE, mask=live, other=0).to(tl.int64)
        slots = (pages * 2 * KV_HEADS + kv_head) * PAGE_SIZE + keys % PAGE_SIZE
        k_at = slots[:, None] * HEAD_DIM + channels[None, :]
        in_kv = live[:, None] & in_d
        k_tile = tl.load(cache + k_at, mask=in_kv, other=0.0)
        v_tile = tl.load(cache + k_at + KV_HEADS * PAGE_SIZE * HEAD_DIM, mask=in_kv, other=0.0)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale_log2
        scores = tl.where(live[None, :], scores, float("-inf"))
        new_most = tl.maximum(most, tl.max(scores, 1))  # finite: the block has a key
        weights = tl.exp2(scores - new_most[:, None])
        kept = tl.exp2(most - new_most)
        total = total * kept + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * kept[:, None], input_precision="ieee")
        most = new_most

    at = ((row.to(tl.int64) * HEADS + heads) * SPLITS + split) * (BLOCK_D + 2)
    is_head = lanes < SHARED
    tl.store(partial + at[:, None] + channels[None, :], acc, mask=is_head[:, None])
    tl.store(partial + at + BLOCK_D, most, mask=is_head)
    tl.store(partial + at + BLOCK_D + 1, total, mask=is_head)


@triton.jit
def merge_kernel(
    partial,
    o,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """The splits of one head of one row, always in the same order."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    channels = tl.arange(0, BLOCK_D)
    at = (row.to(tl.int64) * HEADS + head) * SPLITS * (BLOCK_D + 2)
    most = float("-inf")
    for split in tl.static_range(SPLITS):
        most = tl.maximum(most, tl.load(partial + at + split * (BLOCK_D + 2) + BLOCK_D))
    base = tl.where(most == float("-inf"), 0.0, most)
    total = 0.0
    acc = tl.zeros([BLOCK_D], tl.float32)
    for split in tl.static_range(SPLITS):
        from_ = partial + at + split * (BLOCK_D + 2)
        share = tl.exp2(tl.load(from_ + BLOCK_D) - base)
        total += share * tl.load(from_ + BLOCK_D + 1)
        acc += share * tl.load(from_ + channels)
    acc = acc / tl.where(total == 0, 1.0, total)
    out = o + (row.to(tl.int64) * HEADS + head) * HEAD_DIM + channels
    tl.store(out, acc.to(o.dtype.element_ty), mask=channels < HEAD_DIM)


def decode(
    q: torch.Tensor,
    cache: torch.Tensor,
    kv_len: torch.Tensor,
    block_table: torch.Tensor,
    *,
    scale: float,
    window: int = 0,
    splits: int = 8,
    block_n: int = 64,
) -> torch.Tensor:
    """Attention of one new token a row over its cached keys, its own included.

    Parameters
    ----------
    q : [R, heads, head_dim].
    cache : [pages, 2 (keys, values), kv_heads, page_size, head_dim], of q's dtype: one layer.
    kv_len : i32[R], tokens of each row, at least 0; a row of none gives zeros.
    block_table : i32[R, P]: the row's pages in order; entries beyond its length are not read.
    scale, window : as in prefill.
    splits : parts that a row's context is computed in, at once.

    Returns
    -------
    [R, heads, head_dim] of q's dtype. A row's bits depend on its own length, splits and block_n alone.
    """
    rows, heads, head_dim = q.shape
    _, two, kv_heads, page_size, _ = cache.shape
    if two != 2:
        raise ValueError(f"cache: expected shape [pages, 2, kv_heads, page_size, head_dim], got {list(cache.shape)}")
    _check(q, cache, cache, heads, kv_heads, head_dim)
    block_d = triton.next_power_of_2(head_dim)
    o = torch.empty_like(q)
    if rows == 0:
        return o
    partial = torch.empty((rows, heads, splits, block_d + 2), dtype=torch.float32, device=q.device)
    decode_kernel[(rows, kv_heads, splits)](
        q,
        cache,
        kv_len,
        block_table,
        block_table.shape[1],
        partial,
        scale * _LOG2_E,
        window,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=block_d,
        PAGE_SIZE=page_size,
        WINDOWED=window > 0,
        BLOCK_H=max(16, triton.next_power_of_2(heads // kv_heads)),
        BLOCK_N=block_n,
        SPLITS=splits,
    )
    merge_kernel[(rows, heads)](partial, o, HEADS=heads, HEAD_DIM=head_dim, BLOCK_D=block_d, SPLITS=splits)
    return o


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, kv_heads: int, head_dim: int) -> None:
    if kv_heads < 1 or heads % kv_heads != 0:
        raise ValueError(f"q: expected a multiple of {kv_heads} heads, as keys have, got {heads}")
    if not 16 <= head_dim <= 256:
        raise ValueError(f"head_dim: expected 16 to 256, got {head_dim}")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not tensor.is_contiguous() or tensor.shape[-1] != head_dim or tensor.dtype != q.dtype:
            raise ValueError(
                f"{name}: expected contiguous {q.dtype} with a last dimension of {head_dim}, "
                f"got {tensor.dtype} of shape {list(tensor.shape)}, strides {list(tensor.stride())}"
            )
