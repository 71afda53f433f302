"""torch.compile(backend="flashflow") and flashflow.compile on a GPU: skipped where torch has none."""

import json
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import flashflow
from flashflow.errors import FlashFlowError, InvalidArgumentError
from flashflow.models.build import build_model
from flashflow.models.config import GptSmallConfig
from flashflow.torch_backend import FlashFlowWarning, counters

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

EPS = torch.finfo(torch.float32).eps / 2


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    counters.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", FlashFlowWarning)
        yield


def compiled(function, **kwargs):
    return torch.compile(function, backend="flashflow", **kwargs)


def assert_near(got, want, terms=64, magnitude=4.0):
    """Equal up to the rounding of sums of `terms` products, at most `magnitude` in all, on either side."""
    assert got.device == want.device
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=0, atol=4 * terms * EPS * magnitude)


def mlp():
    return nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.LayerNorm(20), nn.Linear(20, 5)).eval().cuda()


def gpt():
    config = GptSmallConfig(vocab_size=97, context_length=64, hidden_size=64, n_layers=2, n_heads=4, mlp_size=128)
    weights = {key: 0.2 * torch.randn(shape) + (len(shape) == 1) for key, shape in config.weight_shapes().items()}
    return build_model(config, weights).eval().cuda()


def ids_and_positions(batch, length):
    ids = torch.randint(0, 97, (batch, length), device="cuda")
    return ids, torch.arange(length, device="cuda").expand(batch, length)


def test_a_model_runs_as_one_piece_at_any_size():
    model = gpt()
    f = compiled(model, dynamic=True)
    for batch, length in ((2, 5), (3, 64), (1, 33)):
        arguments = ids_and_positions(batch, length)
        want = model(*arguments)
        assert_near(f(*arguments), want, terms=2 * 128, magnitude=float(want.abs().max()) * 10)
    assert counters.parts == counters.graphs > 0
    assert counters.eager_graphs == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_16_bits_run_as_one_piece_as_near_to_f32_as_eagers(dtype):
    model = gpt()
    arguments = ids_and_positions(2, 40)
    want = model(*arguments)
    model.to(dtype)
    eager = model(*arguments).float()
    got = compiled(model)(*arguments)
    assert got.dtype == dtype
    assert counters.parts == counters.graphs == 1
    assert (got.float() - want).abs().max() <= 2 * (eager - want).abs().max()


def test_weights_are_read_where_torch_has_them():
    model = mlp()
    x = torch.randn(3, 12, device="cuda")
    f = flashflow.compile(model, (x,))
    assert_near(f(x), model(x))
    places = {weight.packed.data_ptr() for weight in f._runner.weights}
    assert places == {parameter.data_ptr() for parameter in model.parameters()}
    model[0].weight.mul_(2.0)
    assert_near(f(x), model(x))


def test_work_is_ordered_by_torchs_current_stream():
    model = mlp()
    f = flashflow.compile(model, (torch.randn(3, 12, device="cuda"),))
    source = torch.randn(4096, 12, device="cuda")
    want = model(source + 1.0)
    streams = [torch.cuda.Stream() for _ in range(3)]
    torch.cuda.synchronize()
    results = []
    for stream in streams * 4:
        with torch.cuda.stream(stream):
            x = torch.empty_like(source)
            torch.cuda._sleep(1_000_000)
            x.copy_(source).add_(1.0)  # done late: who does not wait reads what was there before
            results.append((stream, f(x) * 1.0))
    for stream, result in results:
        stream.synchronize()
        assert_near(result, want)


def test_what_is_not_known_runs_in_eager_mode_between_pieces():
    def f(x, w):
        return torch.special.erfcx(x @ w).relu() @ w

    x, w = torch.randn(3, 4, device="cuda"), torch.randn(4, 4, device="cuda")
    with pytest.warns(FlashFlowWarning, match="aten.special_erfcx.default runs in eager mode"):
        assert_near(compiled(f)(x, w), f(x, w), magnitude=1e3)
    assert counters.parts == 2


def test_tensors_on_the_cpu_are_left_to_eager_mode():
    def f(x, scalar):
        return (x.exp() * scalar).sum(-1)

    x, scalar = torch.randn(3, 4, device="cuda"), torch.tensor(2.0)
    with pytest.warns(FlashFlowWarning, match="a tensor is on cpu"):
        assert_near(compiled(f)(x, scalar), f(x, scalar), magnitude=100)
    with pytest.raises(FlashFlowError, match="two different devices"):
        flashflow.compile(mlp(), (torch.randn(3, 12),))
    with pytest.raises(InvalidArgumentError, match="expected cuda:0"):
        flashflow.compile(mlp(), (torch.randn(3, 12, device="cuda"),))(torch.randn(3, 12))


@pytest.mark.parametrize("layout", ["transposed", "sliced", "misaligned", "empty"])
def test_inputs_of_any_strides(layout):
    x = {
        "transposed": lambda: torch.randn(12, 6, device="cuda").t(),
        "sliced": lambda: torch.randn(6, 24, device="cuda")[:, ::2],
        "misaligned": lambda: torch.randn(73, device="cuda")[1:].view(6, 12),
        "empty": lambda: torch.randn(0, 12, device="cuda"),
    }[layout]()
    model = mlp()
    assert_near(compiled(model)(x), model(x))


def test_masks_indices_and_integers():
    table = nn.Embedding(11, 24).cuda()

    def f(ids, lengths):
        x = table(ids).view(*ids.shape, 3, 8).transpose(1, 2)
        seen = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        y = functional.scaled_dot_product_attention(x, x, x, attn_mask=seen[:, None, None])
        scores = torch.softmax(x @ x.transpose(-1, -2), dim=-2)
        return y, scores, torch.cumsum(ids, 1), torch.where(seen, ids, -1), (x.amax(-1) > 0) & seen[:, None]

    ids = torch.randint(0, 11, (3, 17), device="cuda")
    lengths = torch.tensor([1, 17, 8], device="cuda")
    for got, want in zip(compiled(f)(ids, lengths), f(ids, lengths), strict=True):
        if want.is_floating_point():
            assert_near(got, want, magnitude=32)
        else:
            assert torch.equal(got, want)


def test_a_module_compiles_as_one_graph_for_its_gpu():
    model = gpt()
    f = flashflow.compile(model, ids_and_positions(3, 5))
    plan = json.loads(f.plan)
    assert {tactic["id"].split(".")[0] for step in plan["steps"] for tactic in step["tactics"]} == {"cuda"}
    for batch, length in ((1, 1), (2, 64)):
        arguments = ids_and_positions(batch, length)
        want = model(*arguments)
        assert_near(f(*arguments), want, terms=2 * 128, magnitude=float(want.abs().max()) * 10)


def test_arrays_of_other_libraries_go_in_and_out_without_a_copy():
    model = mlp()
    x = torch.randn(4, 12, device="cuda")
    capsule = torch.utils.dlpack.to_dlpack(x)
    y = flashflow.compile(model, (x,))(torch.from_dlpack(capsule))
    assert torch.from_dlpack(torch.utils.dlpack.to_dlpack(y)).data_ptr() == y.data_ptr()
    assert_near(y, model(x))
