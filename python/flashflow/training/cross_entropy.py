"""Cross-entropy over a padded vocabulary, in Triton: logits are read once forward and once backward.

torch's own, compiled or not, goes over the logits several times and keeps a wider copy or recomputes indices for each
element; at 50,304 columns that is more traffic than a transformer block's.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _WARPS = 8192, 16


def cross_entropy(logits: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """Mean cross-entropy in nats, f32 [].

    Args:
        logits: [N, P] of any float dtype, contiguous; sums are f32.
        targets: i64 [N], below vocab.
        vocab: columns that count, the first of P >= vocab; the gradient of the others is 0.
    """
    losses, _ = _token_losses(logits, targets, vocab)
    mean: Tensor = losses.mean()
    return mean


@torch.library.custom_op("flashflow::token_losses", mutates_args=())
def _token_losses(logits: Tensor, targets: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """The loss of each row and the logarithm of its sum of exponentials, f32 [N] each."""
    losses = logits.new_empty(logits.shape[0], dtype=torch.float32)
    log_sums = torch.empty_like(losses)
    block = min(_BLOCK, triton.next_power_of_2(vocab))
    _losses_kernel[(logits.shape[0],)](
        logits,
        targets,
        losses,
        log_sums,
        logits.stride(0),
        VOCAB=vocab,
        COLUMNS=logits.shape[1],
        BLOCK=block,
        num_warps=_WARPS,
    )
    return losses, log_sums


@torch.library.custom_op("flashflow::token_losses_backward", mutates_args=())
def _token_losses_backward(logits: Tensor, targets: Tensor, log_sums: Tensor, gradients: Tensor, vocab: int) -> Tensor:
    """The gradient of the logits, [N, P] in their dtype, for gradients f32 [N] of the losses."""
    result = torch.empty_like(logits)
    block = min(_BLOCK, triton.next_power_of_2(logits.shape[1]))
    _gradient_kernel[(logits.shape[0],)](
        logits,
        targets,
        log_sums,
        gradients.contiguous(),
        result,
        logits.stride(0),
        VOCAB=vocab,
        COLUMNS=logits.shape[1],
        BLOCK=block,
        num_warps=_WARPS,
    )
    return result


@_token_losses.register_fake
def _(logits: Tensor, targets: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    losses = logits.new_empty(logits.shape[0], dtype=torch.float32)
    return losses, torch.empty_like(losses)


@_token_losses_backward.register_fake
def _(logits: Tensor, targets: Tensor, log_sums: Tensor, gradients: Tensor, vocab: int) -> Tensor:
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    logits, targets, ctx.vocab = inputs
    ctx.save_for_backward(logits, targets, output[1])


def _backward(ctx: Any, losses_gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    logits, targets, log_sums = ctx.saved_tensors
    return _token_losses_backward(logits, targets, log_sums, losses_gradient, ctx.vocab), None, None


_token_losses.register_autograd(_backward, setup_context=_keep)


@triton.jit  # type: ignore[untyped-decorator]
def _load(row, column, VOCAB: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Logits of a row, minus infinity past the vocabulary. The padding is read: 16 bytes at a time, as rows end so."""
    x = tl.load(row + column, mask=column < COLUMNS, other=0.0).to(tl.float32)
    return tl.where(column < VOCAB, x, float("-inf"))


@triton.jit  # type: ignore[untyped-decorator]
def _losses_kernel(  # type: ignore[no-untyped-def]
    logits, targets, losses, log_sums, stride, VOCAB: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    """One program a row. Maxima and sums are kept a lane until the end: no lane waits for another between loads."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -3.4028234663852886e38, tl.float32)  # finite: what is masked adds nothing to it
    sums = tl.zeros([BLOCK], tl.float32)
    for first in tl.static_range(0, VOCAB, BLOCK):
        x = _load(logits + row * stride, first + columns, VOCAB, COLUMNS)
        # The one exponential that either the old sum or the new term is multiplied by; the other's is 1.
        ratio = tl.exp(-tl.abs(x - largest))
        sums = tl.where(x > largest, sums * ratio + 1.0, sums + ratio)
        largest = tl.maximum(largest, x)
    row_largest = tl.max(largest, 0)
    log_sum = row_largest + tl.log(tl.sum(sums * tl.exp(largest - row_largest), 0))
    target = tl.load(targets + row)
    tl.store(log_sums + row, log_sum)
    tl.store(losses + row, log_sum - tl.load(logits + row * stride + target).to(tl.float32))


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    logits,
    targets,
    log_sums,
    gradients,
    result,
    stride,
    VOCAB: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row: (softmax - one at the target) * the row's gradient."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    target = tl.load(targets + row)
    log_sum = tl.load(log_sums + row)
    gradient = tl.load(gradients + row)
    for first in range(0, COLUMNS, BLOCK):
        column = first + columns
        x = _load(logits + row * stride, column, VOCAB, COLUMNS)
        y = (tl.exp(x - log_sum) - tl.where(column == target, 1.0, 0.0)) * gradient
        tl.store(result + row * stride + column, y.to(result.dtype.element_ty), mask=column < COLUMNS)
