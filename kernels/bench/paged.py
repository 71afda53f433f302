"""The kernels of the paged KV cache: decode beside cuDNN and FlashAttention-2, whose keys lie in one piece a row."""

from collections.abc import Iterator

import torch
from kernels.bench import torch_peers
from kernels.bench.case import Bind, Call, Case, Operands, empty, randn
from kernels.bench.library import Libraries, Library
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

PAGE = 16  # slots
DECODE = (  # rows, heads, kv_heads, context, head_dim
    (1, 12, 12, 1024, 64),
    (8, 12, 12, 1024, 64),
    (64, 12, 12, 1024, 64),
    (256, 12, 12, 1024, 64),
    (1, 9, 3, 1024, 64),
    (1, 32, 8, 4096, 128),
    (32, 32, 8, 4096, 128),
)
STEPS = (
    (1, 12, 12, 128, 64),
    (1, 12, 12, 1024, 64),
    (8, 12, 12, 1024, 64),
    (64, 12, 12, 1024, 64),
    (1, 9, 3, 1024, 64),
)
ROPE = ((1, 9, 3, 64), (256, 32, 8, 128))  # tokens, heads, kv_heads, head_dim


def _rows(rows: int, context: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """row_start, kv_len and a shuffled block_table for rows of a new token each."""
    pages = context // PAGE
    return (
        torch.arange(rows + 1, device="cuda", dtype=torch.int32),
        torch.full((rows,), context, device="cuda", dtype=torch.int32),
        torch.randperm(rows * pages, device="cuda").to(torch.int32).reshape(rows, pages),
    )


def _decode_operands(rows: int, heads: int, kv_heads: int, context: int, dim: int) -> Operands:
    cache = randn(rows * context // PAGE, 2, kv_heads, PAGE, dim)
    k, v = (randn(rows, kv_heads, context, dim) for _ in range(2))
    return (randn(rows, heads, dim), empty(rows, heads, dim), cache, *_rows(rows, context), k, v)


def _step_operands(rows: int, heads: int, kv_heads: int, context: int, dim: int) -> Operands:
    return (
        randn(rows, heads + 2 * kv_heads, dim),
        *(torch.rand(rows, dim, device="cuda") for _ in range(2)),
        empty(rows, heads, dim),
        randn(rows * context // PAGE, 2, kv_heads, PAGE, dim),
        *_rows(rows, context),
    )


def _decode(library: Library, blocks: int) -> Bind:
    def bind(q: torch.Tensor, o: torch.Tensor, cache: torch.Tensor, *rest: torch.Tensor) -> Call:
        count, heads, dim = q.shape
        table = rest[:3]
        sizes = (count, table[2].shape[1], 1, heads, cache.shape[2], dim, PAGE)
        return lambda: library.call("ff_paged_attention", q, o, cache, *table, *sizes, dim**-0.5, 0, blocks)

    return bind


def _decode_peer(backend: SDPBackend) -> Bind:
    def bind(q: torch.Tensor, *rest: torch.Tensor) -> Call:
        k, v = rest[-2:]
        query = q[:, :, None, :]
        grouped = q.shape[1] != k.shape[1]

        def call() -> object:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(query, k, v, enable_gqa=grouped)

        return call

    return bind


def _rope(library: Library) -> Bind:
    def bind(
        qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: torch.Tensor, *table: torch.Tensor
    ) -> Call:
        tokens, heads_and_kv, dim = qkv.shape
        kv_heads = cache.shape[2]
        sizes = (tokens, tokens, table[2].shape[1], heads_and_kv - 2 * kv_heads, kv_heads, dim, PAGE)
        return lambda: library.call("ff_rope_append", qkv, cos, sin, cache, *table, *sizes)

    return bind


def _step_sizes(qkv: torch.Tensor, cache: torch.Tensor, table: tuple[torch.Tensor, ...]) -> tuple[int, ...]:
    tokens, heads_and_kv, dim = qkv.shape
    kv_heads = cache.shape[2]
    return (tokens, tokens, table[2].shape[1], heads_and_kv - 2 * kv_heads, kv_heads, dim, PAGE)


def _step(library: Library) -> Bind:
    def bind(
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        o: torch.Tensor,
        cache: torch.Tensor,
        *table: torch.Tensor,
    ) -> Call:
        sizes = _step_sizes(qkv, cache, table)
        return lambda: library.call(
            "ff_paged_decode", qkv, cos, sin, o, cache, *table, *sizes, qkv.shape[2] ** -0.5, 0, 0
        )

    return bind


def _step_in_two(library: Library) -> Bind:
    def bind(
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        o: torch.Tensor,
        cache: torch.Tensor,
        *table: torch.Tensor,
    ) -> Call:
        sizes = _step_sizes(qkv, cache, table)
        tokens, _, pages, *heads, dim, page = sizes
        # Queries of the merged projection's first tokens: their bytes are as many.
        attend = (tokens, pages, 1, *heads, dim, page, dim**-0.5, 0, 0)

        def call() -> None:
            library.call("ff_rope_append", qkv, cos, sin, cache, *table, *sizes)
            library.call("ff_paged_attention", qkv, o, cache, *table, *attend)

        return call

    return bind


def _rope_eager(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: torch.Tensor, *table: torch.Tensor
) -> object:
    kv_heads = cache.shape[2]
    x, v = qkv[:, :-kv_heads], qkv[:, -kv_heads:]
    half = x.shape[-1] // 2
    turned = x * cos[:, None] + torch.cat((-x[..., half:], x[..., :half]), -1) * sin[:, None]
    slot = (table[1] - 1).long()
    page = table[2].gather(1, (slot // PAGE)[:, None])[:, 0].long()
    k = turned[:, -kv_heads:].to(cache.dtype)
    cache[page, 0, :, slot % PAGE] = k
    cache[page, 1, :, slot % PAGE] = v
    return turned.to(qkv.dtype)


def cases(libraries: Libraries) -> Iterator[Case]:
    """Decode: a query a row. Rotation and append of a token a row."""
    for rows, heads, kv_heads, context, dim in DECODE:
        shape = (rows, heads, kv_heads, context, dim)
        yield Case(
            "paged",
            f"decode {rows}x{heads}/{kv_heads}x{context}x{dim}",
            lambda shape=shape: _decode_operands(*shape),
            ours={name: _decode(library, 0) for name, library in libraries.items()},
            peers={
                "cudnn": _decode_peer(SDPBackend.CUDNN_ATTENTION),
                "fa2": _decode_peer(SDPBackend.FLASH_ATTENTION),
            },
            others={
                f"{name}, {blocks} a row": _decode(library, blocks)
                for name, library in libraries.items()
                for blocks in (1, 8)
            },
            flops=4.0 * rows * heads * context * dim,
            bytes=4.0 * rows * kv_heads * context * dim + 4.0 * rows * heads * dim,
        )
    for rows, heads, kv_heads, context, dim in STEPS:
        shape = (rows, heads, kv_heads, context, dim)
        yield Case(
            "paged",
            f"rope, append and decode {rows}x{heads}/{kv_heads}x{context}x{dim}",
            lambda shape=shape: _step_operands(*shape),
            ours={name: _step(library) for name, library in libraries.items()},
            peers={"ours, two launches": _step_in_two(libraries["ours"])},
            flops=4.0 * rows * heads * context * dim,
            bytes=4.0 * rows * kv_heads * context * dim + 4.0 * rows * (heads + kv_heads) * dim,
        )
    for tokens, heads, kv_heads, dim in ROPE:
        yield Case(
            "paged",
            f"rope and append {tokens}x{heads}/{kv_heads}x{dim}",
            lambda tokens=tokens, heads=heads, kv_heads=kv_heads, dim=dim: (
                randn(tokens, heads + 2 * kv_heads, dim),
                *(torch.rand(tokens, dim, device="cuda") for _ in range(2)),
                randn(tokens * 4, 2, kv_heads, PAGE, dim),
                *_rows(tokens, 4 * PAGE),
            ),
            ours={name: _rope(library) for name, library in libraries.items()},
            peers={"eager": torch_peers.eager(_rope_eager)},
            flops=6.0 * tokens * (heads + kv_heads) * dim,
            bytes=4.0 * tokens * (heads + 2 * kv_heads) * dim + 8.0 * tokens * dim,
        )
