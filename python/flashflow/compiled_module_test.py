"""flashflow.compile: one graph of any inputs and outputs, or an error."""

import json

import pytest
import torch
from torch import nn

import flashflow
from flashflow.errors import FlashFlowError, InvalidArgumentError, UnsupportedError
from flashflow.models.build import build_model
from flashflow.models.config import GptSmallConfig

EPS = torch.finfo(torch.float32).eps / 2


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def assert_near(got, want, terms=64, magnitude=4.0):
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=0, atol=2 * terms * EPS * magnitude)


class Scores(nn.Module):
    """Attention with several inputs and outputs, keywords and a table of its own."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(16, 16)
        self.register_buffer("bias", torch.randn(16))

    def forward(self, x, *, keys):
        q = self.project(x) + self.bias
        weights = torch.softmax(q @ keys.transpose(-1, -2) * 0.25, -1)
        return {"mixed": weights @ keys, "weights": weights, "x": x}


def test_runs_at_other_sizes_with_the_modules_own_structure():
    module = Scores().eval()
    f = flashflow.compile(module, (torch.randn(2, 3, 16),), {"keys": torch.randn(2, 7, 16)})
    for batch, queries, keys in ((2, 3, 7), (1, 1, 1), (5, 9, 40)):
        x, k = torch.randn(batch, queries, 16), torch.randn(batch, keys, 16)
        got, want = f(x, keys=k), module(x, keys=k)
        assert list(got) == list(want)
        for name in want:
            assert_near(got[name], want[name])


def test_our_model_gives_its_logits():
    config = GptSmallConfig(vocab_size=97, context_length=32, hidden_size=32, n_layers=2, n_heads=2, mlp_size=64)
    weights = {key: 0.2 * torch.randn(shape) + (len(shape) == 1) for key, shape in config.weight_shapes().items()}
    model = build_model(config, weights)
    example = torch.zeros(3, 5, dtype=torch.int64)
    f = flashflow.compile(model, (example, example))  # two inputs, though one tensor
    ops = [step["op"] for step in json.loads(f.plan)["steps"]]
    assert ops.count("attention") == 2
    for batch, length in ((1, 1), (2, 32)):
        ids = torch.randint(0, 97, (batch, length))
        positions = torch.arange(length).expand(batch, length)
        got, want = f(ids, positions), model(ids, positions)
        # Two layers deep, sums of at most 64 terms each; the residual stream grows to about 10.
        assert_near(got, want, terms=2 * 64, magnitude=float(want.abs().max()) * 10)


def test_changed_weights_are_seen():
    module = Scores().eval()
    x, k = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    f = flashflow.compile(module, (x,), {"keys": k})
    before = f(x, keys=k)["mixed"]
    module.project.weight.mul_(3.0)
    module.bias.add_(1.0)
    after = f(x, keys=k)["mixed"]
    assert_near(after, module(x, keys=k)["mixed"], magnitude=16)
    assert not torch.allclose(before, after)


def test_what_does_not_fit_is_refused():
    module = Scores().eval()
    x, k = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    f = flashflow.compile(module, (x,), {"keys": k})
    with pytest.raises(InvalidArgumentError, match="the arguments are"):
        f(x)
    with pytest.raises(InvalidArgumentError, match=r"f32\[2, 3, 15\]"):
        f(x[..., :15], keys=k)
    with pytest.raises(InvalidArgumentError, match="expected f32"):
        f(x, keys=k[:1])
    with pytest.raises(InvalidArgumentError, match="i64"):
        f(x.long(), keys=k)
    with pytest.raises(InvalidArgumentError, match="expected 2 dimensions|f32"):
        f(x[0], keys=k)


class Unknown(nn.Module):
    def forward(self, x):
        return torch.special.erfcx(x)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x + self.calls


def test_what_is_not_supported_is_named():
    with pytest.raises(FlashFlowError, match=r"special_erfcx.*compiled_module_test.py") as error:
        flashflow.compile(Unknown().eval(), (torch.randn(3),))
    assert "docs/frontend.md" in str(error.value)
    with pytest.raises(UnsupportedError, match="changes its buffers|changes a tensor in place"):
        flashflow.compile(Counts().eval(), (torch.randn(3),))
    with pytest.raises(InvalidArgumentError, match="training mode"):
        flashflow.compile(nn.Linear(2, 2), (torch.randn(3, 2),))
    with pytest.raises(UnsupportedError, match="torch.export failed"):
        flashflow.compile(nn.Linear(2, 2).eval(), (torch.randn(3, 5),))
