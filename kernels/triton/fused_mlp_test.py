"""In Triton's interpreter on the CPU (a GPU's compiler where there is one), against the same formulas in f64."""

import pytest
import torch

from kernels.triton.testing import DEVICE, EPS, HALF  # isort: skip

import triton
from kernels.triton import fused_mlp

SMALL = triton.Config({"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 32}, num_warps=4, num_stages=1)

# The largest slope of each activation: errors of its argument grow by no more.
FUNCTIONS = {
    "none": (lambda x: x, 1.0),
    "gelu": (torch.nn.functional.gelu, 1.13),
    "gelu_tanh": (lambda x: torch.nn.functional.gelu(x, approximate="tanh"), 1.13),
    "silu": (torch.nn.functional.silu, 1.1),
    "relu": (torch.relu, 1.0),
}


def random(generator, *shape, dtype=torch.float32, scale=1.0):
    return (torch.randn(*shape, generator=generator) * scale).to(dtype)


def reference(x, weight, bias, residual, norm, norm_weight, norm_bias, activation, gated, eps):
    """The result, and for each element how far roundings of the operands' products may move it, in units of eps."""
    x, weight = x.double(), weight.double()
    h = x
    if norm == "layer_norm":
        h = torch.nn.functional.layer_norm(x, x.shape[-1:], norm_weight.double(), norm_bias.double(), eps)
    elif norm == "rms_norm":
        h = torch.nn.functional.rms_norm(x, x.shape[-1:], norm_weight.double(), eps)
    f, slope = FUNCTIONS[activation]
    z = h @ weight.T
    # Sums of k terms in any order, and h rounded once.
    size = h.abs() @ weight.T.abs()
    if bias is not None:
        z = z + bias.double()
    y, error = f(z), slope * size
    if gated:
        n = z.shape[1] // 2
        y = f(z[:, :n]) * z[:, n:]
        error = slope * size[:, :n] * (z[:, n:].abs() + 1) + (f(z[:, :n]).abs() + 1) * size[:, n:]
    if residual is not None:
        y = y + residual.double()
    return y, error


CASES = [
    # m, n, k, norm, activation, gated, bias, residual
    (1, 16, 32, "none", "none", False, False, False),
    (7, 33, 65, "layer_norm", "gelu_tanh", False, True, False),
    (17, 20, 48, "rms_norm", "silu", True, False, False),
    (5, 40, 31, "none", "gelu", False, True, True),
    (16, 24, 127, "layer_norm", "relu", True, True, True),
]


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(("m", "n", "k", "norm", "activation", "gated", "bias", "residual"), CASES)
def test_fused_linear(m, n, k, norm, activation, gated, bias, residual, dtype):
    generator = torch.Generator().manual_seed(m * n + k)
    rows = 2 * n if gated else n
    given = {
        "x": random(generator, m, k, dtype=dtype) + (3 if norm == "layer_norm" else 0),
        "weight": random(generator, rows, k, dtype=dtype, scale=k**-0.5),
        "bias": random(generator, rows) if bias else None,
        "residual": random(generator, m, n, dtype=dtype) if residual else None,
        "norm_weight": 1 + random(generator, k, scale=0.2) if norm != "none" else None,
        "norm_bias": random(generator, k) if norm == "layer_norm" else None,
    }
    want, error = reference(**given, norm=norm, activation=activation, gated=gated, eps=1e-5)
    given = {name: None if t is None else t.to(DEVICE) for name, t in given.items()}
    got = fused_mlp.fused_linear(**given, norm=norm, activation=activation, gated=gated, config=SMALL).cpu()
    assert got.dtype == dtype
    single = EPS[torch.float32]
    # Sums in f32, the norm's own sums, the activation's function; the norm's rows and the result in dtype.
    allowed = (2 * k * single + 64 * single + EPS[dtype]) * error + EPS[dtype] * want.abs() + 8 * single
    assert ((got.double() - want).abs() <= allowed).all()
    for row in (0, m - 1):
        alone = {
            name: t[row : row + 1] if name in ("x", "residual") and t is not None else t for name, t in given.items()
        }
        one = fused_mlp.fused_linear(**alone, norm=norm, activation=activation, gated=gated, config=SMALL).cpu()
        assert torch.equal(one[0], got[row]), "a row's bits do not depend on the rows beside it"


@pytest.mark.parametrize(
    ("m", "n", "k", "activation", "bias", "residual"),
    [(1, 16, 32, "none", False, False), (37, 40, 72, "gelu_tanh", True, False), (33, 56, 64, "none", True, True)],
)
def test_many_rows(m, n, k, activation, bias, residual):
    generator = torch.Generator().manual_seed(m)
    given = {
        "x": random(generator, m, k),
        "weight": random(generator, n, k, scale=k**-0.5),
        "bias": random(generator, n) if bias else None,
        "residual": random(generator, m, n) if residual else None,
    }
    fixed = {"norm": "none", "norm_weight": None, "norm_bias": None, "gated": False, "eps": 1e-5}
    want, error = reference(**given, **fixed, activation=activation)
    given = {name: None if t is None else t.to(DEVICE) for name, t in given.items()}
    got = fused_mlp.fused_linear(**given, activation=activation, config=SMALL, many_rows=True).cpu()
    single = EPS[torch.float32]
    assert ((got.double() - want).abs() <= (2 * k + 64) * single * error + single * want.abs() + 8 * single).all()


def test_fused_mlp_is_the_block_that_models_write():
    generator = torch.Generator().manual_seed(5)
    x, up, down = random(generator, 9, 24), random(generator, 96, 24, scale=0.2), random(generator, 24, 96, scale=0.1)
    norm_weight, norm_bias, up_bias, down_bias = (random(generator, n) for n in (24, 24, 96, 24))
    got = fused_mlp.fused_mlp(
        *(t.to(DEVICE) for t in (x, up, down)),
        up_bias=up_bias.to(DEVICE),
        down_bias=down_bias.to(DEVICE),
        norm="layer_norm",
        norm_weight=norm_weight.to(DEVICE),
        norm_bias=norm_bias.to(DEVICE),
        config=SMALL,
    ).cpu()
    h = torch.nn.functional.layer_norm(x.double(), (24,), norm_weight.double(), norm_bias.double())
    hidden = torch.nn.functional.gelu(h @ up.double().T + up_bias.double(), approximate="tanh")
    want = x.double() + hidden @ down.double().T + down_bias.double()
    size = (h.abs() @ up.double().T.abs() + 1) @ down.double().T.abs()  # of the terms that are added up
    assert ((got.double() - want).abs() <= 2 * (24 + 96) * EPS[torch.float32] * (size + 1)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(4, 9)}, r"weight: expected contiguous \[4, 8\]"),
        ({"weight": torch.zeros(4, 8).half()}, "weight: expected torch.float32"),
        ({"bias": torch.zeros(3)}, r"bias: expected contiguous \[4\]"),
        ({"residual": torch.zeros(2, 8)}, r"residual: expected contiguous \[2, 4\]"),
        ({"weight": torch.zeros(5, 8), "gated": True}, "an even number of rows"),
        ({"activation": "swish"}, "activation: expected one of none, gelu"),
        ({"norm": "batch_norm"}, "norm: expected one of none, layer_norm"),
        ({"norm_weight": torch.zeros(8)}, "expected none, as norm"),
        ({"gated": True, "many_rows": True}, "many_rows: expected neither norm nor gate"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = {"x": torch.zeros(2, 8), "weight": torch.zeros(4, 8)} | change
    with pytest.raises(ValueError, match=message):
        fused_mlp.fused_linear(**given)
