"""Latency: its figures add up, its floor counts weights once and caches for each sequence, bad counts are refused."""

import pytest

from flashflow import LLM
from flashflow.errors import InvalidArgumentError
from flashflow.evaluation.latency import batch_floor_us, measure_latency
from flashflow.roofline import Roofline, RooflineRow
from flashflow.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return LLM(folder, cache_dir=folder / "cache", device="cpu", max_batch=3)


@pytest.mark.parametrize(("batch", "new_tokens"), [(1, 6), (3, 6), (2, 1)])
def test_figures_add_up(llm, batch, new_tokens):
    calls = []
    found = measure_latency(
        llm,
        batch=batch,
        prompt_tokens=20,
        new_tokens=new_tokens,
        repeats=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert (found.batch, found.prompt_tokens, found.new_tokens, found.repeats) == (batch, 20, new_tokens, 2)
    assert 0 < found.first_token_ms <= found.first_token_p95_ms
    assert found.total_tokens_per_s > 0 and found.first_token_percent_of_floor > 0
    info = llm.engine_info()
    assert found.device_memory_bytes == info["weight_bytes"] + info["kv_cache_bytes"] + info["arena_bytes"]
    assert found.peak_memory_bytes > 1 << 20
    if new_tokens == 1:
        assert found.token_p50_ms is found.tokens_per_s is found.percent_of_floor is None
    else:
        assert 0 < found.token_p50_ms <= found.token_p95_ms <= found.token_p99_ms
        assert found.percent_of_floor == pytest.approx(100 * found.token_floor_ms / found.token_p50_ms)
        # A step brings each request a token.
        assert found.tokens_per_s > 0.2 * batch * 1e3 / found.token_p99_ms


def roofline_of(calls):
    """Weights take 100 us, and 1 us for each token; attention 1 us for each token of context, whatever the step."""

    def roofline(tokens, context):
        calls.append((tokens, context))
        row = dict(loc="", bytes=1.0, flops=1.0, bound_by="memory", achieved_us=None)
        rows = (
            RooflineRow(op="fused_linear", floor_us=100.0 + tokens, **row),
            RooflineRow(op="cached_attention", floor_us=float(context), **row),
        )
        return Roofline("d", "s", 1.0, {}, 0.0, tokens, context, rows)

    return roofline


def test_floor_of_a_batch_has_weights_once_and_a_cache_for_each():
    calls = []
    assert batch_floor_us(roofline_of(calls), 1, 1, 50) == 100 + 1 + 50
    assert batch_floor_us(roofline_of(calls), 8, 1, 50) == 100 + 8 + 8 * 50
    assert batch_floor_us(roofline_of(calls), 4, 20, 20) == 100 + 80 + 4 * 20
    assert all(context >= tokens for tokens, context in calls)


def test_moments_of_tokens_rise(llm):
    (output,) = llm.generate([[1, 2, 3]])
    times = output.timing.token_s
    assert len(times) == len(output.token_ids) and list(times) == sorted(times)
    assert times[0] == output.timing.prefill_s and times[-1] - times[0] == pytest.approx(output.timing.decode_s)


@pytest.mark.parametrize(
    ("change", "flag", "message"),
    [
        ({"batch": 0}, "--batch", "is 0: expected at least 1"),
        ({"batch": 4}, "--batch", "takes 3 at a time"),
        ({"prompt_tokens": 60}, "--prompt-len", "60 tokens of a prompt and 6 new ones do not fit"),
        ({"new_tokens": 0}, "--new-tokens", "expected at least 1"),
        ({"repeats": 0}, "--repeats", "expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(llm, change, flag, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        measure_latency(llm, **{"batch": 1, "prompt_tokens": 8, "new_tokens": 6, **change})
    assert caught.value.op == flag
