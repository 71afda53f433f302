"""A transformer's MLP in two launches: norm, up projection and activation; down projection and residual.

Each is a linear layer with what stands before and after it, as the IR's fused_linear: the norm is computed
where its rows are multiplied, and bias, activation, gate and residual are applied to the sums before they are rounded.
Sums are f32. Programs that share rows run beside each other, so that what they read again comes from the L2 cache.
"""

import torch
import triton
import triton.language as tl
from kernels.triton.descriptors import has_descriptors, scratch_memory

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "silu", "relu")
NORMS = ("none", "layer_norm", "rms_norm")


def _configs() -> list[triton.Config]:
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)
        for m, n, k, warps, stages in [
            (16, 32, 256, 4, 4),  # few rows: many programs, each streaming its rows of the weight
            (16, 64, 128, 4, 5),
            (32, 64, 128, 4, 4),
            (64, 64, 64, 4, 4),
            (64, 128, 64, 4, 4),
            (128, 128, 64, 8, 3),
            (128, 256, 64, 8, 4),
        ]
    ]


def _many_rows_configs() -> list[triton.Config]:
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": 64}, num_warps=8, num_stages=stages)
        for m, n, stages in [(128, 128, 4), (128, 256, 3), (128, 256, 4)]
    ]


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACTIVATION == "gelu":
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        x = 0.5 * x * (1 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif ACTIVATION == "silu":
        x = x * tl.sigmoid(x)
    elif ACTIVATION == "relu":
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def _load_tile(rows, k, K: tl.constexpr, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Columns k of the rows; zeros past K, where k may be."""
    if WHOLE:
        return tl.load(rows + k[None, :])
    return tl.load(rows + k[None, :], mask=(k < K)[None, :], other=0.0)


@triton.jit
def linear_kernel(
    x,  # [m, K]
    weight,  # [N, K], or [2 N, K] where gated: the gate's rows first
    bias,
    residual,  # [m, N]
    norm_weight,
    norm_bias,
    y,  # [m, N]
    m,
    eps,
    N: tl.constexpr,
    K: tl.constexpr,
    NORM: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_NORM_WEIGHT: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """BLOCK_M x BLOCK_N elements of y. Their sums run over K in order, whatever m is."""
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    # Rows and columns past the end read the last one again, which costs no masks; their results are not stored.
    x_rows = x + tl.minimum(rows, m - 1).to(tl.int64)[:, None] * K
    WHOLE: tl.constexpr = K % BLOCK_K == 0

    mean = tl.zeros([BLOCK_M], tl.float32)
    rstd = tl.full([BLOCK_M], 1.0, tl.float32)
    if NORM != "none":
        # Two passes, as a difference of two large sums would lose the variance of rows far from zero.
        if NORM == "layer_norm":
            for first in tl.range(0, K, BLOCK_K):
                mean += tl.sum(_load_tile(x_rows, first + ks, K, WHOLE).to(tl.float32), 1)
            mean = mean / K
        squares = tl.zeros([BLOCK_M], tl.float32)
        for first in tl.range(0, K, BLOCK_K):
            k = first + ks
            tile = _load_tile(x_rows, k, K, WHOLE).to(tl.float32) - mean[:, None]
            if not WHOLE:
                tile = tl.where((k < K)[None, :], tile, 0.0)
            squares += tl.sum(tile * tile, 1)
        rstd = tl.rsqrt(squares / K + eps)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    weight_rows = weight + tl.minimum(columns, N - 1).to(tl.int64)[:, None] * K
    for first in tl.range(0, K, BLOCK_K):
        k = first + ks
        tile = _load_tile(x_rows, k, K, WHOLE)
        if NORM != "none":
            h = (tile.to(tl.float32) - mean[:, None]) * rstd[:, None]
            if HAS_NORM_WEIGHT:
                h = h * tl.load(norm_weight + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
            if HAS_NORM_BIAS:
                h = h + tl.load(norm_bias + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
            if not WHOLE:
                h = tl.where((k < K)[None, :], h, 0.0)
            tile = h.to(weight.dtype.element_ty)
        acc = tl.dot(tile, tl.trans(_load_tile(weight_rows, k, K, WHOLE)), acc, input_precision="ieee")
        if GATED:
            up_tile = _load_tile(weight_rows + N * K, k, K, WHOLE)
            up = tl.dot(tile, tl.trans(up_tile), up, input_precision="ieee")

    if HAS_BIAS:
        acc += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
        if GATED:
            up += tl.load(bias + N + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    acc = _activate(acc, ACTIVATION)
    if GATED:
        acc = acc * up
    at = rows.to(tl.int64)[:, None] * N + columns[None, :]
    inside = (rows < m)[:, None] & (columns < N)[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, acc.to(y.dtype.element_ty), mask=inside)


tuned_linear_kernel = triton.autotune(configs=_configs(), key=["m", "N", "K", "NORM", "GATED"])(linear_kernel)


@triton.jit
def many_rows_kernel(
    x,  # [m, K]
    weight,  # [N, K]
    bias,
    residual,  # [m, N]
    y,  # [m, N]
    m,
    N: tl.constexpr,
    K: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """As linear_kernel without norm and gate.

    A program stays for many tiles, whose blocks the copy engine brings: the next tile's are on their way while this
    one's sums go through the activation.
    """
    x_blocks = tl.make_tensor_descriptor(x, [m, K], [K, 1], [BLOCK_M, BLOCK_K])
    weight_blocks = tl.make_tensor_descriptor(weight, [N, K], [K, 1], [BLOCK_N, BLOCK_K])
    y_blocks = tl.make_tensor_descriptor(y, [m, N], [N, 1], [BLOCK_M, BLOCK_N])
    across = tl.cdiv(N, BLOCK_N)
    for tile in tl.range(tl.program_id(0), across * tl.cdiv(m, BLOCK_M), tl.num_programs(0), flatten=True):
        row = tile // across * BLOCK_M
        column = tile % across * BLOCK_N
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for step in tl.range(0, tl.cdiv(K, BLOCK_K)):
            x_tile = x_blocks.load([row, step * BLOCK_K])
            w_tile = weight_blocks.load([column, step * BLOCK_K])
            acc = tl.dot(x_tile, tl.trans(w_tile), acc, input_precision="ieee")
        columns = column + tl.arange(0, BLOCK_N)
        if HAS_BIAS:
            acc += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
        acc = _activate(acc, ACTIVATION)
        if HAS_RESIDUAL:
            rows = row + tl.arange(0, BLOCK_M)
            at = rows.to(tl.int64)[:, None] * N + columns[None, :]
            inside = (rows < m)[:, None] & (columns < N)[None, :]
            acc += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        y_blocks.store([row, column], acc.to(y.dtype.element_ty))


tuned_many_rows_kernel = triton.autotune(configs=_many_rows_configs(), key=["m", "N", "K"])(many_rows_kernel)


def fused_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    norm: str = "none",
    norm_weight: torch.Tensor | None = None,
    norm_bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
    gated: bool = False,
    config: triton.Config | None = None,
    many_rows: bool | None = None,
) -> torch.Tensor:
    """f(norm(x) weight^T + bias) + residual, as the IR's fused_linear.

    Parameters
    ----------
    x : [m, K]; weight : [N, K], or [2 N, K] where `gated`: f of the first half times the second. Contiguous, of one
        float dtype.
    bias : [N] or [2 N]; residual : [m, N]; norm_weight, norm_bias : [K]. Of any float dtype.
    norm : "none", "layer_norm" or "rms_norm" of x's rows, rounded to weight's dtype before the product.
    activation : "none", "gelu", "gelu_tanh", "silu" or "relu".
    config : block sizes; tuned on first use of a shape if None.
    many_rows : whether to take the kernel for that, which has neither norm nor gate and sets Triton's allocator of
        scratch memory; None: from 1,024 rows on, on GPUs with a copy engine and where it can take the shape.

    Returns
    -------
    [m, N] of x's dtype. An element's bits do not depend on m where `config` is given.
    """
    m, k = x.shape
    n = weight.shape[0] // 2 if gated else weight.shape[0]
    _check("activation", activation, ACTIVATIONS)
    _check("norm", norm, NORMS)
    if norm == "none" and (norm_weight is not None or norm_bias is not None):
        raise ValueError('norm_weight, norm_bias: expected none, as norm is "none"')
    if gated and weight.shape[0] % 2:
        raise ValueError(f"weight: expected an even number of rows, as it is gated, got {weight.shape[0]}")
    for name, tensor, shape in (
        ("x", x, (m, k)),
        ("weight", weight, (weight.shape[0], k)),
        ("bias", bias, (weight.shape[0],)),
        ("residual", residual, (m, n)),
        ("norm_weight", norm_weight, (k,)),
        ("norm_bias", norm_bias, (k,)),
    ):
        if tensor is not None and (tuple(tensor.shape) != shape or not tensor.is_contiguous()):
            raise ValueError(f"{name}: expected contiguous {list(shape)}, got {list(tensor.shape)}")
    if x.dtype != weight.dtype:
        raise ValueError(f"weight: expected {x.dtype}, as x is, got {weight.dtype}")
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m == 0:
        return y
    plain = norm == "none" and not gated
    if many_rows is None:
        pitches = (k * x.element_size(), n * x.element_size())
        many_rows = plain and config is None and m >= 1024 and all(map(has_descriptors, pitches))
    if many_rows:
        if not plain:
            raise ValueError("many_rows: expected neither norm nor gate")
        return _many_rows(x, weight, bias, residual, y, activation, config)
    arguments = (x, weight, bias, residual, norm_weight, norm_bias, y, m, eps)
    constants = dict(
        N=n,
        K=k,
        NORM=norm,
        ACTIVATION=activation,
        GATED=gated,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        HAS_NORM_WEIGHT=norm_weight is not None,
        HAS_NORM_BIAS=norm_bias is not None,
    )

    def grid(meta: dict) -> tuple[int, int]:
        return (triton.cdiv(n, meta["BLOCK_N"]), triton.cdiv(m, meta["BLOCK_M"]))

    if config is None:
        tuned_linear_kernel[grid](*arguments, **constants)
    else:
        linear_kernel[grid](*arguments, **constants, **config.all_kwargs())
    return y


def _many_rows(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    y: torch.Tensor,
    activation: str,
    config: triton.Config | None,
) -> torch.Tensor:
    m, k = x.shape
    n = y.shape[1]
    constants = dict(N=n, K=k, ACTIVATION=activation, HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 2

    def grid(meta: dict) -> tuple[int]:
        return (min(processors, triton.cdiv(n, meta["BLOCK_N"]) * triton.cdiv(m, meta["BLOCK_M"])),)

    triton.set_allocator(scratch_memory)
    if config is None:
        tuned_many_rows_kernel[grid](x, weight, bias, residual, y, m, **constants)
    else:
        many_rows_kernel[grid](x, weight, bias, residual, y, m, **constants, **config.all_kwargs())
    return y


def fused_mlp(
    x: torch.Tensor,
    up_weight: torch.Tensor,
    down_weight: torch.Tensor,
    *,
    up_bias: torch.Tensor | None = None,
    down_bias: torch.Tensor | None = None,
    norm: str = "none",
    norm_weight: torch.Tensor | None = None,
    norm_bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "gelu_tanh",
    gated: bool = False,
    config: triton.Config | None = None,
) -> torch.Tensor:
    """x + down(f(up(norm(x)))): a transformer's MLP block, residual included.

    x : [m, C]; up_weight : [H, C], or [2 H, C] where `gated` (SwiGLU: activation "silu"); down_weight : [C, H]. Else as
    fused_linear. The hidden rows are rounded to x's dtype.
    """
    hidden = fused_linear(
        x,
        up_weight,
        up_bias,
        norm=norm,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        eps=eps,
        activation=activation,
        gated=gated,
        config=config,
    )
    return fused_linear(hidden, down_weight, down_bias, residual=x, config=config)


def _check(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(f"{what}: expected one of {', '.join(known)}, got {name!r}")
