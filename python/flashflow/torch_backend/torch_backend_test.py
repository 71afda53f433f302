"""torch.compile(backend="flashflow") on small modules: what it may never change, and what it must do only once."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from flashflow.errors import InvalidArgumentError
from flashflow.torch_backend import FlashFlowWarning, backend, counters

EPS = torch.finfo(torch.float32).eps / 2


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch.manual_seed(0)
    counters.reset()
    backend._warned.clear()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FlashFlowWarning)
        yield


def compiled(function, **kwargs):
    return torch.compile(function, backend="flashflow", **kwargs)


def assert_same(got, want, terms=64, magnitude=4.0):
    """Equal up to the rounding of sums of `terms` products, at most `magnitude` in all."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.stride() == want.stride()
    if want.is_floating_point():
        torch.testing.assert_close(got, want, rtol=0, atol=2 * terms * EPS * magnitude)
    else:
        assert torch.equal(got, want)


def mlp():
    return nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.LayerNorm(20), nn.Linear(20, 5)).eval()


# --- registration ---------------------------------------------------------------


def run_python(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_is_found_by_name_once_flashflow_is_imported():
    run_python(
        "import sys, flashflow\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "assert 'flashflow' in torch.compiler.list_backends()\n"
        "from importlib.metadata import entry_points, version\n"
        "assert [e.name for e in entry_points(group='torch_dynamo_backends')].count('flashflow') == 1\n"
        "assert version('flashflow') == flashflow.__version__\n"
    )


def test_is_found_where_torch_looked_for_backends_before():
    run_python(
        "import torch\n"
        "before = torch.compiler.list_backends()\n"
        "import flashflow\n"
        "from torch._dynamo.backends.registry import lookup_backend\n"
        "lookup_backend('flashflow')\n"
    )


# --- shapes ---------------------------------------------------------------------


def test_at_most_four_graphs_over_fifty_shapes_and_no_plan_twice():
    model = mlp()
    f = compiled(model, dynamic=True)
    for rows, columns in torch.randint(1, 40, (50, 2)).tolist():
        x = torch.randn(rows, columns, 12)
        assert_same(f(x), model(x))
    assert 1 <= counters.graphs <= 4
    assert counters.eager_graphs == 0
    assert counters.runs == 50
    assert counters.plans <= counters.parts == counters.graphs
    assert counters.packed_weights == 2, "each weight once, whatever the number of graphs"


def test_equal_layers_share_a_plan():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x):
            for layer in self.layers:
                x = torch.special.erfcx(layer(x).tanh())  # nothing we have: a piece ends here
            return x

    model = Layers().eval()
    x = torch.randn(3, 8)
    assert_same(compiled(model)(x), model(x))
    assert counters.parts == 4
    assert counters.plans == 1
    assert counters.packed_weights == 4


# --- gradients, autocast, dtypes ------------------------------------------------


def test_with_gradients_it_is_eager_and_says_so_once():
    model = mlp()
    x = torch.randn(2, 12)
    with torch.enable_grad():
        with pytest.warns(FlashFlowWarning, match="gradients are enabled"):
            loss = compiled(model)(x).square().sum()
        loss.backward()
        torch._dynamo.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compiled(model)(x)
    assert counters.graphs == counters.eager_graphs == 2
    got = model[0].weight.grad.clone()
    model.zero_grad()
    with torch.enable_grad():
        model(x).square().sum().backward()
    assert torch.equal(got, model[0].weight.grad)
    assert_same(compiled(model)(x), model(x))  # and without gradients it is not
    assert counters.runs == 1


def test_gradients_that_the_function_itself_enables_are_kept():
    weight = nn.Parameter(torch.randn(3, 3))

    def f(x):
        with torch.enable_grad():
            return x @ weight

    assert compiled(f)(torch.ones(2, 3)).requires_grad


def test_autocast_is_left_to_eager():
    model = mlp()
    x = torch.randn(2, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = model(x)
        got = compiled(model)(x)
    assert got.dtype == want.dtype
    assert torch.equal(got, want)

    def inside(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model[0](x)

    assert torch.equal(compiled(inside)(x), inside(x))
    assert counters.eager_graphs == counters.graphs == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_dtypes_give_eagers_bits(dtype):
    model = mlp().to(dtype)
    x = torch.randn(2, 12, dtype=dtype)
    assert torch.equal(compiled(model)(x), model(x))


# --- what stays in eager mode ---------------------------------------------------


def test_an_unsupported_operator_is_named_once_and_the_rest_runs_compiled():
    def f(x, w):
        return torch.special.erfcx(x @ w).relu() @ w

    x, w = torch.randn(3, 4), torch.randn(4, 4)
    with pytest.warns(FlashFlowWarning, match="aten.special_erfcx.default runs in eager mode") as record:
        assert_same(compiled(f)(x, w), f(x, w), magnitude=1e3)
    assert len([w for w in record if issubclass(w.category, FlashFlowWarning)]) == 1
    assert counters.parts == 2
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FlashFlowWarning)
        compiled(f)(x, w)


def test_what_proves_unsupported_at_a_size_is_eager_from_then_on():
    def f(q):
        return functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    q = torch.randn(1, 1, 3, 600)  # more channels than the kernel takes
    g = compiled(f)
    with pytest.warns(FlashFlowWarning, match="head_dim 600"):
        got = g(q)
    assert_same(got, f(q), terms=600)
    g(q)
    assert counters.runs == 1


def test_an_index_out_of_range_is_an_error():
    table = nn.Embedding(4, 3)
    f = compiled(lambda ids: table(ids) * 2)
    assert_same(f(torch.tensor([0, 3])), table(torch.tensor([0, 3])) * 2)
    with pytest.raises(InvalidArgumentError, match="token id number 1 is 4"):
        f(torch.tensor([0, 4]))


def test_random_numbers_are_eagers():
    def f(x):
        return torch.dropout(x.exp(), 0.5, train=True).sqrt()

    x = torch.randn(50)
    torch.manual_seed(3)
    want = f(x)
    torch.manual_seed(3)
    assert_same(compiled(f)(x), want, magnitude=8)


# --- memory: strides, aliases, changes in place ---------------------------------


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "scalar", "empty", "negated"])
def test_inputs_of_any_strides(layout):
    x = torch.randn(6, 12)
    x = {
        "transposed": lambda: torch.randn(12, 6).t(),
        "sliced": lambda: torch.randn(6, 24)[::2, 1::2],
        "expanded": lambda: torch.randn(12).expand(6, 12),
        "scalar": lambda: torch.tensor(1.5),
        "empty": lambda: torch.randn(0, 12),
        "negated": lambda: torch.randn(6, 12, dtype=torch.complex64).conj().imag,
    }[layout]()

    def f(x):
        return (x * 2 + 1).sigmoid()

    assert_same(compiled(f)(x), f(x))
    assert counters.runs == 1


def test_outputs_have_eagers_strides():
    def f(x):
        return x.t().exp(), (x + 1).transpose(0, 1), x.permute(2, 0, 1).tanh() if x.dim() == 3 else x.relu()

    x = torch.randn(3, 5)
    for got, want in zip(compiled(f)(x), f(x), strict=True):
        assert_same(got, want, magnitude=32)
    y = torch.randn(2, 3, 4)

    def g(y):
        return y.permute(2, 0, 1).tanh()

    assert_same(compiled(g)(y), g(y))
    assert counters.runs >= 2


def test_outputs_alias_what_they_alias_in_eager_mode():
    def f(x):
        y = x.exp()
        return x, x.view(-1), y, y.view(-1), y[0]

    x = torch.ones(2, 3)
    same, flat, y, y_flat, y_row = compiled(f)(x)
    flat[1] = 7.0
    assert x[0, 1] == 7.0
    assert same is x or same.data_ptr() == x.data_ptr()
    y_flat[0] = -1.0
    assert y[0, 0] == -1.0
    assert y_row[0] == -1.0


def test_changes_in_place_happen_where_the_program_says():
    def f(x, cache):
        before = cache * 2
        view = cache[:, 1:3]
        view.copy_(x.exp())
        between = cache + before
        cache.mul_(0.5)
        return before, between, cache.sum(0), view

    x, cache = torch.randn(3, 2), torch.randn(3, 4)
    mine, theirs = cache.clone(), cache.clone()
    got, want = compiled(f)(x, mine), f(x, theirs)
    for a, b in zip(got, want, strict=True):
        assert_same(a, b, magnitude=16)
    assert_same(mine, theirs)
    got[3].zero_()  # a view of the cache
    assert torch.equal(mine[:, 1:3], torch.zeros(3, 2))
    assert counters.runs >= 2


def test_a_result_that_is_changed_later_is_its_own():
    def f(x):
        y = x @ x
        z = y.view(-1)
        z.add_(1.0)
        return y * 2

    x = torch.randn(3, 3)
    assert_same(compiled(f)(x), f(x), magnitude=16)


# --- weights --------------------------------------------------------------------


def test_weights_are_packed_once_and_again_when_they_change():
    model = mlp()
    x = torch.randn(3, 12)
    f = compiled(model)
    for _ in range(3):
        assert_same(f(x), model(x))
    assert counters.packed_weights == 2

    model[0].weight.mul_(2.0)  # its version
    assert_same(f(x), model(x))
    assert counters.packed_weights == 3
    assert_same(f(x), model(x))
    assert counters.packed_weights == 3

    model[3].weight.data = torch.randn(5, 20)  # its memory
    assert_same(f(x), model(x))
    assert counters.packed_weights == 4

    model[2].weight.add_(1.0)  # read where it is: nothing to pack
    assert_same(f(x), model(x))
    assert counters.packed_weights == 4

    model[0].weight = nn.Parameter(torch.randn(20, 12))  # another tensor
    assert_same(f(x), model(x))
    assert counters.packed_weights == 5
    assert counters.plans <= 2


def test_weights_that_share_their_memory_are_not_mixed_up():
    base = torch.randn(5, 8)
    first, second = nn.Linear(8, 5, bias=False).eval(), nn.Linear(8, 5, bias=False).eval()
    first.weight, second.weight = nn.Parameter(base), nn.Parameter(base.detach().clone())
    x = torch.randn(2, 8)
    f, g = compiled(first), compiled(second)
    assert_same(f(x), first(x))
    second.weight.data = first.weight.data  # the same memory, another count of changes
    second.weight.data.add_(1.0)
    second.weight.add_(0.0)
    assert_same(g(x), second(x))


def test_weights_of_any_strides_and_without_a_count_of_changes():
    model = mlp()
    model[0].weight = nn.Parameter(torch.randn(12, 20).t())
    x = torch.randn(3, 12)
    assert_same(compiled(model)(x), model(x))
    with torch.inference_mode():
        other = mlp()
        y = torch.randn(3, 12)
        f = compiled(other)
        assert_same(f(y), other(y))
        other[0].weight.mul_(2.0)
        assert_same(f(y), other(y))


def test_bfloat16_weights_of_a_table_are_read_as_they_are():
    table = torch.nn.Parameter(torch.randn(9, 8, dtype=torch.bfloat16))

    def f(ids):
        return functional.embedding(ids, table).float() * 2

    ids = torch.tensor([[0, 8], [3, 3]])
    assert_same(compiled(f)(ids), f(ids))


# --- numbers --------------------------------------------------------------------


def test_floats_of_python_are_constants():
    def f(x, scale):
        return functional.layer_norm(x, (4,), eps=scale) * scale

    x = torch.randn(3, 4)
    g = compiled(f, dynamic=True)
    for scale in (0.5, 0.25, 0.5):
        assert_same(g(x, scale), f(x, scale))
    assert counters.runs >= 3
