import threading
from types import SimpleNamespace

import pytest

from flashflow.errors import InternalError
from flashflow.request_loop import RequestLoop
from flashflow.sampling import SamplingParams


class ScriptedEngine:
    """Gives each request the bytes of a script, one a step; at most `max_batch` requests a step."""

    def __init__(self, max_batch=2):
        self.max_batch = max_batch
        self.running = {}
        self.submitted = 0
        self.canceled = []
        self.steps = 0
        self.stepping = threading.Lock()

    def submit(self, token_ids, params):
        self.submitted += 1
        self.running[self.submitted] = (list(params.script), params.reason)
        return self.submitted

    def step(self):
        assert self.stepping.acquire(blocking=False), "two steps at once"
        self.steps += 1
        events = []
        for number in list(self.running)[: self.max_batch]:
            script, reason = self.running[number]
            token = script.pop(0)
            if not script:
                del self.running[number]
            event = {"token": token, "logprob": -float(token), "top_logprobs": [(token, -float(token))]}
            events.append(SimpleNamespace(request=number, finish_reason="" if script else reason, **event))
        self.stepping.release()
        return events

    def cancel(self, number):
        self.canceled.append(number)
        self.running.pop(number, None)

    def has_work(self):
        return bool(self.running)


def make_loop(engine, script=b"hello", reason="length"):
    scripts = iter([script]) if isinstance(script, bytes) else iter(script)
    return RequestLoop(
        engine,
        lambda ids: bytes(ids).decode(errors="replace"),
        lambda params: SimpleNamespace(script=next(scripts), reason=reason),
    )


def finish(loop, request):
    deltas = []
    while not request.done:
        loop.advance(request)
        deltas.append(request.take_text())
    return deltas


def test_tokens_and_text_of_one_request():
    loop = make_loop(ScriptedEngine())
    request = loop.submit("prompt", [1, 2], SamplingParams(logprobs=1))
    assert finish(loop, request) == list("hello")
    output = request.output()
    assert (output.prompt, output.prompt_token_ids, output.text) == ("prompt", [1, 2], "hello")
    assert output.token_ids == list(b"hello")
    assert output.logprobs == [-float(b) for b in b"hello"]
    assert output.top_logprobs == [[(b, -float(b))] for b in b"hello"]
    assert output.finish_reason == "length"


@pytest.mark.parametrize("reason", ["eos", "stop"])
def test_token_that_ends_it_is_listed_but_not_in_the_text(reason):
    loop = make_loop(ScriptedEngine(), b"hi\x03", reason)
    request = loop.submit(None, [1], SamplingParams())
    finish(loop, request)
    output = request.output()
    assert (output.text, output.token_ids, output.finish_reason) == ("hi", list(b"hi\x03"), reason)
    assert output.logprobs is None


def test_stop_string_cancels_the_request():
    engine = ScriptedEngine()
    loop = make_loop(engine, b"one. two")
    request = loop.submit(None, [1], SamplingParams(stop="."))
    finish(loop, request)
    assert request.output().text == "one" and request.output().finish_reason == "stop"
    assert engine.canceled == [1] and engine.steps == 4


def test_text_held_back_comes_with_the_last_token():
    loop = make_loop(ScriptedEngine(), b"ab")
    request = loop.submit(None, [1], SamplingParams(stop="bc"))
    assert finish(loop, request) == ["a", "b"]


def test_more_requests_than_a_batch_holds():
    scripts = [bytes([65 + i]) * (i + 1) for i in range(7)]
    loop = make_loop(ScriptedEngine(), scripts)
    requests = [loop.submit(None, [1], SamplingParams()) for _ in scripts]
    for request in reversed(requests):  # asked for in any order
        finish(loop, request)
    assert [r.output().text.encode() for r in requests] == scripts


def test_a_step_for_one_serves_the_other():
    engine = ScriptedEngine()
    loop = make_loop(engine, [b"abcd", b"wxyz"])
    first, second = (loop.submit(None, [1], SamplingParams()) for _ in range(2))
    finish(loop, first)
    assert second.done and second.take_text() == "wxyz" and engine.steps == 4


def test_canceled_request_gets_nothing_more():
    engine = ScriptedEngine()
    loop = make_loop(engine, [b"abcd", b"wxyz"])
    first, second = (loop.submit(None, [1], SamplingParams()) for _ in range(2))
    loop.advance(first)
    loop.cancel(first)
    loop.cancel(first)
    finish(loop, second)
    assert first.finish_reason == "canceled" and first.take_text() == "a"
    assert engine.canceled == [1]
    assert second.output().text == "wxyz"


def test_many_threads_share_one_engine():
    scripts = [bytes([65 + i]) * 50 for i in range(8)]
    loop = make_loop(ScriptedEngine(max_batch=3), scripts)
    requests = [loop.submit(None, [1], SamplingParams()) for _ in scripts]
    threads = [threading.Thread(target=finish, args=(loop, request)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [r.output().text.encode() for r in requests] == scripts


def test_engine_that_loses_a_request_is_an_error_not_a_hang():
    engine = ScriptedEngine()
    loop = make_loop(engine)
    request = loop.submit(None, [1], SamplingParams())
    engine.running.clear()
    with pytest.raises(InternalError, match="not done"):
        finish(loop, request)


def test_timing_counts_the_tokens_after_the_first():
    loop = make_loop(ScriptedEngine(), b"abc")
    request = loop.submit(None, [1], SamplingParams())
    finish(loop, request)
    request._submitted, request._times = 10.0, [10.5, 11.0, 12.5]
    timing = request.output().timing
    assert (timing.prefill_s, timing.decode_s, timing.decode_tok_s) == (0.5, 2.0, 1.0)
    assert timing.token_s == (0.5, 1.0, 2.5)
