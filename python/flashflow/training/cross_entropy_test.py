"""In Triton's interpreter on the CPU (a GPU's compiler where there is one), against torch's formulas in f64."""

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from flashflow.training import cross_entropy as module  # noqa: E402

CASES = [(1, 5, 8, 8192), (7, 61, 64, 16), (3, 64, 64, 16), (4, 300, 320, 64), (2, 257, 512, 8192)]


def operands(rows, vocab, columns, dtype, scale=3.0):
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, columns, generator=generator) * scale
    logits[:, vocab:] = 1e4  # would be all of the sum if it counted
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    targets[0] = vocab - 1
    return logits.to(dtype).to(DEVICE).requires_grad_(), targets.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocab", "columns", "block"), CASES)
def test_loss_and_gradient(monkeypatch, rows, vocab, columns, block, dtype):
    """Sums are f32: the loss is as exact as V roundings of terms of one sign; the gradient is rounded to its dtype."""
    monkeypatch.setattr(module, "_BLOCK", block)
    logits, targets = operands(rows, vocab, columns, dtype)
    loss = module.cross_entropy(logits, targets, vocab)
    (loss * 3).backward()
    wide = logits.detach().double().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(wide[:, :vocab], targets)
    (wanted * 3).backward()
    assert loss.dtype == torch.float32
    # exp's argument is rounded at up to 2 * |x|, and so is the logarithm's result.
    bound = 2.0**-24 * (vocab + 4 * wide[:, :vocab].abs().max().item())
    assert abs(loss.item() - wanted.item()) <= bound
    # An error of the logarithm is a relative one of the probabilities. The row's gradient, the difference and the
    # product are rounded in f32, and the result in its dtype.
    eps = torch.finfo(dtype).eps / (2 if DEVICE == "cuda" else 1)  # the interpreter cuts bf16 off
    tiny = torch.finfo(dtype).smallest_normal * eps  # f16's subnormals
    probabilities = torch.zeros_like(wide).index_copy(1, torch.arange(vocab, device=DEVICE), wide[:, :vocab].softmax(1))
    error = (logits.grad.double() - wide.grad).abs()
    assert (error <= wide.grad.abs() * (eps + 3 * 2.0**-24) + 3 / rows * probabilities * 2 * bound + tiny).all()
    assert (logits.grad[:, vocab:] == 0).all()


def test_sizes_beyond_the_exponentials_range_do_not_overflow():
    logits = torch.tensor([[0.0, 2e4, 1e4, 0.0], [-3e4, -2e4, -3e4, 0.0]], device=DEVICE, requires_grad=True)
    loss = module.cross_entropy(logits, torch.tensor([2, 1], device=DEVICE), 3)
    assert loss.item() == 1e4 / 2
    loss.backward()
    assert logits.grad.tolist() == [[0, 0.5, -0.5, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_gives_none(bad):
    logits, targets = operands(3, 61, 64, torch.float32)
    with torch.no_grad():
        logits[1, 7] = bad
    assert module.cross_entropy(logits, targets, 61).isnan()


def test_operators_are_what_torch_compile_expects():
    logits, targets = operands(3, 61, 64, torch.float32)
    torch.library.opcheck(module._token_losses, (logits, targets, 61))
