"""The torch simulation against the interpreter, bit for bit, and against the contract's edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashflow.core import core
from flashflow.errors import InvalidArgumentError
from flashflow.quantization.int8_contract import MAX_INPUTS, dequantize, int8_linear, int8_matmul, quantize_rows

INF = float("inf")
LEAST = 2.0**-100


def interpreted(x, weight, bias, clip):
    """Codes and scales of x[T, K] and of weight[N, K], and y[T, N], as the interpreter has them."""
    (rows, count), outputs = x.shape, weight.shape[0]
    attributes = "" if clip is None else f" {{clip = {float(clip)!r}}}"
    text = f"""ffir 1
    graph @g {{
      input %x "x" : f32[{rows}, {count}]
      weight %w "w" : f32[{outputs}, {count}]
      weight %b "b" : f32[{outputs}]
      %q, %s = quantize(%x){attributes} : i8[{rows}, {count}], f32[{rows}]
      %qw, %sw = quantize(%w) : i8[{outputs}, {count}], f32[{outputs}]
      %y = fused_linear(%x, %qw, %b, _, _, _, %sw){attributes} : f32[{rows}, {outputs}]
      output "q" %q
      output "s" %s
      output "qw" %qw
      output "sw" %sw
      output "y" %y
    }}"""
    return core().interpret(text, {"x": x.numpy()}, {"w": weight.numpy(), "b": bias.numpy()})


def assert_same_bits(found, expected, what):
    expected = torch.from_numpy(np.asarray(expected)).to(found.dtype)
    if found.dtype == torch.float32:
        nan = expected.isnan()
        assert torch.equal(found.isnan(), nan), what
        found, expected = (t.masked_fill(nan, 0).view(torch.int32) for t in (found, expected))
    assert torch.equal(found, expected), what


def assert_bit_exact(x, weight, bias, clip=None):
    expected = interpreted(x, weight, bias, clip)
    codes, scales = quantize_rows(x, clip)
    weight_codes, weight_scales = quantize_rows(weight)
    y = int8_linear(x, weight_codes, weight_scales, bias, clip)
    for name, found in {"q": codes, "s": scales, "qw": weight_codes, "sw": weight_scales, "y": y}.items():
        assert_same_bits(found, expected[name], name)
    return codes, scales, y


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("clip", [None, 1.5, 0.37])
@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 3000])
def test_random_rows(count, clip):
    assert_bit_exact(normal(5, count), normal(7, count, seed=1), normal(7, seed=2), clip)


def test_the_largest_sums():
    """All codes +-127 over 16,384 inputs: sums of 264,257,536, beyond what f32 counts in ones."""
    count = 16384
    x = torch.full((3, count), 2.0)
    x[1] = -2.0
    x[2, 0] = -2.0  # a sum that f32 does not hold: rounded once, to even, when it becomes a float
    weight = torch.ones(2, count)
    weight[1] = -3.0
    codes, _, _ = assert_bit_exact(x, weight, torch.tensor([0.0, 0.1]))
    assert (codes.abs() == 127).all()
    expected = count * 127**2
    sums = int8_matmul(codes, quantize_rows(weight)[0])
    assert sums.tolist() == [
        [expected, -expected],
        [-expected, expected],
        [expected - 2 * 127**2, 2 * 127**2 - expected],
    ]


def test_odd_sums_are_exact():
    """An f32 GEMM over all of K would lose the ones."""
    count = 16384
    a, b = torch.full((1, count), 127, dtype=torch.int8), torch.full((1, count), 127, dtype=torch.int8)
    a[0, ::2], b[0, 1::2] = 126, 125
    exact = int((a.long() * b.long()).sum())
    assert int8_matmul(a, b).item() == exact


def test_ties_go_to_even():
    x = torch.tensor([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    codes, scales, _ = assert_bit_exact(x, torch.ones(1, 8), torch.zeros(1))
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]] and scales.item() == 1


def test_rows_of_zeros_and_below_the_least():
    below = float(np.nextafter(np.float32(LEAST), np.float32(0)))
    x = torch.zeros(5, 4)
    x[1, 2], x[2, 1], x[3, 0], x[4, 3] = LEAST, below, 1e-45, -LEAST
    codes, scales, _ = assert_bit_exact(x, normal(3, 4), normal(3))
    assert codes.abs().amax(1).tolist() == [0, 127, 0, 0, 127]
    assert (scales == 0).tolist() == [True, False, True, True, False]
    assert_bit_exact(x, x[:3], normal(3))  # scales whose product is not a normal number, or is zero


def test_subnormal_products_of_scales_are_kept():
    """2^-70 * 2^-70 of both sides: flushed to zero, y would be the bias alone."""
    x = torch.full((1, 4), 2.0**-66)
    _, _, y = assert_bit_exact(x, torch.full((1, 4), 2.0**-66), torch.zeros(1))
    assert 0 < y.item() < 2.0**-126


@pytest.mark.parametrize("bad", [INF, -INF, float("nan")])
@pytest.mark.parametrize("clip", [None, 2.0])
def test_rows_that_are_not_finite(bad, clip):
    x = normal(3, 6)
    x[1, 4] = bad
    codes, scales, y = assert_bit_exact(x, normal(2, 6), normal(2), clip)
    assert codes[1].abs().sum() == 0 and scales[1].isnan() and y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_clipped_rows_saturate():
    x = torch.tensor([[500, -127.5, 3, -1000], [3, -2, 1, 0.5]])
    codes, scales, _ = assert_bit_exact(x, torch.ones(1, 4), torch.zeros(1), 127.0)
    assert codes[0].tolist() == [127, -127, 3, -127] and scales[0] == 1
    assert codes[1, 0] == 127  # the clip is no floor


@settings(max_examples=60, deadline=None)
@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=24),
    clip=st.one_of(st.none(), st.floats(2.0**-60, 2.0**60, width=32)),
)
def test_any_bits(bits, clip):
    row = torch.from_numpy(np.array(bits, np.uint32).view(np.float32))
    x = torch.stack([row, row.nan_to_num(0, 1, -1), row * 2.0**-40])
    assert_bit_exact(x, row.nan_to_num(0, 1, -1)[None].clamp(-1e18, 1e18), torch.tensor([0.25]), clip)


def test_row_and_shape_do_not_matter():
    """The same row gives the same bits alone, among others, and in any batch shape."""
    x, (weight, scales) = normal(2, 3, 5, 96), quantize_rows(normal(11, 96, seed=1))
    y = int8_linear(x, weight, scales)
    assert y.shape == (2, 3, 5, 11)
    assert torch.equal(int8_linear(x[1, 2, 3], weight, scales), y[1, 2, 3])
    assert torch.equal(int8_linear(x.flatten(0, 2), weight, scales), y.flatten(0, 2))


def test_autocast_does_not_narrow_the_sums():
    a, b = (quantize_rows(normal(9, 400, seed=s))[0] for s in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(int8_matmul(a, b), (a.long() @ b.long().T).int())


def test_dequantized_rows_are_near():
    x = normal(20, 64)
    codes, scales = quantize_rows(x)
    assert ((dequantize(codes, scales) - x).abs() <= 0.5001 * scales[:, None]).all()


def test_sums_that_may_overflow_are_refused():
    codes = torch.zeros(1, MAX_INPUTS + 1, dtype=torch.int8)
    with pytest.raises(InvalidArgumentError, match="may not fit i32"):
        int8_matmul(codes, codes)
