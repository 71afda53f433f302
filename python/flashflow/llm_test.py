"""LLM on the real engine, with a tiny model."""

import gc
import logging
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import flashflow
from flashflow import LLM, SamplingParams
from flashflow.errors import (
    DataLossError,
    FailedPreconditionError,
    FlashFlowError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
)
from flashflow.llm import _engine_params
from flashflow.tiny_model import CONTEXT_LENGTH, END_ID, MODEL_ID, USER_ID, byte_tokenizer, write_tiny_model

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["a", "hello world", "naïve 日本", " \n\t", "x" * 40]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def module(places):
    return write_tiny_model(places[0])


@pytest.fixture(scope="module")
def llm(places, module):
    return LLM(places[0], cache_dir=places[1], device="cpu", max_batch=3)


def logits_of(module, ids):
    with torch.no_grad():
        ids = torch.tensor([ids])
        return module(ids, torch.arange(ids.shape[1])[None])[0].numpy()


def greedy_tokens(module, ids, count):
    ids = list(ids)
    for _ in range(count):
        ids.append(int(logits_of(module, ids)[-1].argmax()))
    return ids[-count:]


def test_greedy_text_is_the_modules(llm, module):
    outputs = llm.generate(PROMPTS, GREEDY)  # more than fit into a batch
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = byte_tokenizer().encode(prompt).ids
        assert output.prompt == prompt and output.prompt_token_ids == ids
        assert output.token_ids == greedy_tokens(module, ids, 12)
        assert output.text == byte_tokenizer().decode(output.token_ids)
        assert output.finish_reason == "length"


def test_logits_are_the_modules(llm, module):
    ids = byte_tokenizer().encode("What comes next? " * 3).ids
    expected, found = logits_of(module, ids), llm.logits(ids)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert (np.abs(found - expected).max(axis=1) <= 1e-4 * np.abs(expected).max(axis=1)).all()


def test_kv_cache_of_codes(places, module, llm, tmp_path):
    coded = LLM(places[0], cache_dir=tmp_path, device="cpu", max_batch=3, kv_dtype="int8")
    assert (llm.kv_dtype, coded.kv_dtype, coded.dtype) == ("float32", "int8", "float32")
    info, plain = coded.engine_info(), llm.engine_info()
    assert info["kv_cache_pages"] == plain["kv_cache_pages"] and info["kv_cache_bytes"] < plain["kv_cache_bytes"] / 2
    ids = byte_tokenizer().encode("What comes next? " * 3).ids
    expected, found = logits_of(module, ids), coded.logits(ids)
    error = np.abs(found - expected).max(axis=1)
    # A code errs by up to 1/254 of its head's largest element: a few percent of the logits after the layers.
    assert (error <= 0.05 * np.abs(expected).max(axis=1)).all() and error.max() > 0
    assert [o.token_ids for o in coded.generate(PROMPTS, GREEDY)] == [
        coded.generate(prompt, GREEDY)[0].token_ids for prompt in PROMPTS
    ]
    path = coded.engine_info()["path"]
    assert LLM(path, device="cpu").kv_dtype == "int8"
    with pytest.raises(InvalidArgumentError, match="kv_dtype is 'int8', but .* was compiled for float32"):
        LLM(llm.engine_info()["path"], device="cpu", kv_dtype="int8")
    with pytest.raises(InvalidArgumentError, match="kv_dtype"):
        LLM(places[0], cache_dir=tmp_path, kv_dtype="int4")


def test_token_ids_are_a_prompt_as_good_as_text(llm):
    ids = llm.encode(PROMPTS[1])
    (text,), (tokens,) = llm.generate(PROMPTS[1], GREEDY), llm.generate(ids, GREEDY)
    assert tokens.prompt is None and tokens.token_ids == text.token_ids
    both = llm.generate([ids, PROMPTS[0]], [GREEDY, SamplingParams(temperature=0, max_tokens=3)])
    assert [len(o.token_ids) for o in both] == [12, 3] and both[0].token_ids == text.token_ids


def test_stream_gives_the_same_text_in_pieces(llm):
    (whole,) = llm.generate(PROMPTS[1], GREEDY)
    stream = llm.stream(PROMPTS[1], GREEDY)
    with pytest.raises(InvalidArgumentError, match="not at its end"):
        _ = stream.output
    pieces = list(stream)
    assert "".join(pieces) == whole.text and len(pieces) > 1
    assert stream.output.token_ids == whole.token_ids


def test_closed_stream_cancels_its_request(llm):
    for end in ("close", "with", "forget"):
        stream = llm.stream("abc", GREEDY)
        next(stream)
        assert llm._engine.has_work()
        if end == "close":
            stream.close()
            assert list(stream) == []
        elif end == "with":
            with stream:
                pass
        else:
            del stream
            gc.collect()
        assert not llm._engine.has_work()


def test_streams_and_batches_interleave(llm):
    expected = {prompt: output.text for prompt, output in zip(PROMPTS, llm.generate(PROMPTS, GREEDY), strict=True)}
    first, second = llm.stream(PROMPTS[0], GREEDY), llm.stream(PROMPTS[1], GREEDY)
    begun = next(first)
    assert [o.text for o in llm.generate(PROMPTS[2:4], GREEDY)] == [expected[p] for p in PROMPTS[2:4]]
    assert begun + "".join(first) == expected[PROMPTS[0]] and "".join(second) == expected[PROMPTS[1]]


def test_failure_leaves_nothing_running(llm, monkeypatch):
    def fail(request):
        raise RuntimeError("no more")

    monkeypatch.setattr(llm._loop, "advance", fail)
    with pytest.raises(RuntimeError, match="no more"):
        llm.generate(PROMPTS, GREEDY)
    assert not llm._engine.has_work()


def test_threads_share_the_engine(llm):
    expected = [output.text for output in llm.generate(PROMPTS, GREEDY)]
    found = [""] * len(PROMPTS)

    def run(i):
        found[i] = "".join(llm.stream(PROMPTS[i], GREEDY))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == expected


def test_seed_fixes_the_tokens_and_only_the_seed(llm):
    def sample(seed, prompts):
        params = SamplingParams(temperature=1.5, max_tokens=20, seed=seed, ignore_eos=True)
        return [output.token_ids for output in llm.generate(prompts, params)]

    alone, in_a_batch, other = sample(7, ["abc"]), sample(7, ["x", "abc", "yy", "zzz"]), sample(8, ["abc"])
    assert alone[0] == in_a_batch[1] and alone != other
    assert sample(None, ["abc"]) != sample(None, ["abc"])


def test_every_sampling_parameter_reaches_the_engine():
    values = (
        "temperature=0.5, top_k=3, top_p=0.75, min_p=0.25, repetition_penalty=1.5, seed=7, max_tokens=9, logprobs=2"
    )
    params = eval(f"SamplingParams({values})")
    assert repr(_engine_params(params)) == f"SamplingParams({values})"


def test_times_of_loading_and_compiling_add_up(places, module, tmp_path):
    began = time.monotonic()
    timing = LLM(places[0], cache_dir=tmp_path, device="cpu").timing
    assert timing.load_s > 0 and timing.compile_s > 0
    assert timing.total_s == timing.load_s + timing.compile_s <= time.monotonic() - began


def test_logprobs_are_those_of_the_distribution(llm, module):
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=3, ignore_eos=True)
    (output,) = llm.generate("hello", params)
    ids = output.prompt_token_ids + output.token_ids
    rows = torch.log_softmax(torch.from_numpy(logits_of(module, ids)).double(), dim=-1)
    for i, token in enumerate(output.token_ids):
        row = rows[len(output.prompt_token_ids) - 1 + i]
        assert output.logprobs[i] == pytest.approx(row[token].item(), abs=1e-3)
        assert [t for t, _ in output.top_logprobs[i]] == row.topk(3).indices.tolist()


def test_stop_string_and_stop_token(llm):
    (whole,) = llm.generate("hello world", GREEDY)
    third = whole.token_ids[2]
    first_at = whole.token_ids.index(third)
    (stopped,) = llm.generate("hello world", SamplingParams(temperature=0, stop_token_ids=[third], ignore_eos=True))
    assert stopped.finish_reason == "stop" and stopped.token_ids == whole.token_ids[: first_at + 1]
    assert stopped.text == llm.decode(whole.token_ids[:first_at])
    word = next(c for c in whole.text if c != "\ufffd")
    (cut,) = llm.generate("hello world", SamplingParams(temperature=0, stop=word, ignore_eos=True, max_tokens=12))
    assert cut.finish_reason == "stop" and cut.text == whole.text[: whole.text.index(word)]


def test_end_of_sequence_ends_it_unless_ignored(llm, tmp_path):
    (whole,) = llm.generate("hello world", GREEDY)
    third = whole.token_ids[2]
    first_at = whole.token_ids.index(third)
    write_tiny_model(tmp_path / "model", eos_token_id=third)
    ending = LLM(tmp_path / "model", cache_dir=tmp_path / "cache", device="cpu")
    (output,) = ending.generate("hello world", SamplingParams(temperature=0, max_tokens=12))
    assert output.finish_reason == "eos"
    assert output.token_ids == whole.token_ids[: first_at + 1]
    assert output.text == llm.decode(whole.token_ids[:first_at])
    assert ending.generate("hello world", GREEDY)[0].token_ids == whole.token_ids


def test_generation_ends_where_the_context_does(llm):
    prompt = "y" * (CONTEXT_LENGTH - 5)
    (output,) = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=100, ignore_eos=True))
    assert output.finish_reason == "length" and len(output.token_ids) == 5


def test_prompt_past_the_context_is_refused_with_both_numbers(llm):
    for prompt in ("z" * CONTEXT_LENGTH, [5] * CONTEXT_LENGTH, "z" * 1000):
        with pytest.raises(InvalidArgumentError, match=f"{len(prompt)} tokens.*{CONTEXT_LENGTH}"):
            llm.generate(["fine", prompt], GREEDY)
    assert not llm._engine.has_work()


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["fine", ""]])
def test_empty_prompt_is_refused(llm, prompt):
    with pytest.raises(InvalidArgumentError, match="the prompt is empty"):
        llm.generate(prompt, GREEDY)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([0, 259], "token 259 at index 1"),
        ([-1], "token -1 at index 0"),
        ([1.5], "1.5"),
        ([b"bytes"], "b'bytes'"),
        (b"bytes", "98"),
        ([True], "True"),
        ("\ud800", "no character"),
    ],
)
def test_prompt_that_is_none_is_refused(llm, prompt, message):
    with pytest.raises(InvalidArgumentError, match=message):
        llm.generate(prompt, GREEDY)


def test_params_for_each_prompt_must_be_as_many(llm):
    with pytest.raises(InvalidArgumentError, match="2 params for 3 prompts"):
        llm.generate(["a", "b", "c"], [GREEDY, GREEDY])


def test_chat_uses_the_models_template(llm):
    messages = [{"role": "user", "content": "hi"}]
    ids = llm.encode_chat(messages)
    assert ids == [USER_ID, *llm.encode("hi"), END_ID, MODEL_ID]
    assert llm.chat(messages, GREEDY).token_ids == llm.generate(ids, GREEDY)[0].token_ids
    with pytest.raises(InvalidArgumentError):
        llm.chat([], GREEDY)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "int3"}, InvalidArgumentError),
        ({"device": "tpu"}, InvalidArgumentError),
        ({"threads": 0}, InvalidArgumentError),
        ({"threads": -1}, InvalidArgumentError),
        ({"max_batch": 0}, InvalidArgumentError),
        ({"max_batch": 1.5}, InvalidArgumentError),
        ({"kv_cache_bytes": 0}, InvalidArgumentError),
        ({"device": "cuda"}, FailedPreconditionError),
    ],
)
def test_option_that_cannot_be_honored_is_refused_by_name(places, module, options, error):
    ((name, value),) = options.items()
    with pytest.raises(error, match=str(value) if error is FailedPreconditionError else f"{name} is {value!r}"):
        LLM(places[0], cache_dir=places[1], **options)


@pytest.mark.parametrize(("options", "message"), [({"device": "cuda"}, "^device"), ({"threads": 10**5}, "^threads")])
def test_device_is_refused_before_an_engine_is_built_for_it(places, module, tmp_path, options, message):
    with pytest.raises(FlashFlowError, match=message):
        LLM(places[0], cache_dir=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_unknown_model_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no-such-model"):
        LLM("no-such-model", cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_model_without_tokenizer_takes_token_ids(places, module, llm, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((places[0] / name).read_bytes())
    bare = LLM(folder, cache_dir=tmp_path / "cache", device="cpu")
    ids = llm.encode("hello")
    (output,) = bare.generate(ids, GREEDY)
    assert output.token_ids == llm.generate(ids, GREEDY)[0].token_ids and output.text == ""
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        bare.generate("hello", GREEDY)
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        bare.generate(ids, SamplingParams(stop="x"))


def test_second_use_opens_the_cached_engine_without_torch(places, llm):
    code = (
        "import sys\n"
        "from flashflow import LLM, SamplingParams\n"
        "llm = LLM(sys.argv[1], cache_dir=sys.argv[2], device='cpu')\n"
        "params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)\n"
        "print(llm.generate('hello world', params)[0].token_ids)\n"
        "print(llm.timing.compile_s, sorted({'torch', 'transformers', 'sympy'} & set(sys.modules)))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, *map(str, places)], env=env, capture_output=True, text=True)
    assert done.stderr == ""
    tokens, rest = done.stdout.splitlines()
    assert tokens == str(llm.generate("hello world", GREEDY)[0].token_ids)
    assert rest == "0.0 []"


def test_importing_flashflow_imports_little():
    code = (
        "import sys, flashflow; print(sorted({'torch', 'numpy', 'tokenizers', 'flashflow._core'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout == "[]\n"


def test_every_exported_name_is_there():
    for name in flashflow.__all__:
        assert getattr(flashflow, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = flashflow.no_such_name


def test_version_is_that_of_the_core():
    from flashflow.core import core

    assert core().version() == flashflow.__version__


@pytest.mark.parametrize("damage", ["truncate", "flip a weight", "flip the header", "empty", "zeros"])
def test_damaged_cache_is_built_anew_with_a_warning(places, module, tmp_path, caplog, damage):
    before = LLM(places[0], cache_dir=tmp_path, device="cpu")
    expected = before.generate("hello", GREEDY)[0].token_ids
    del before
    (path,) = (tmp_path / "engines").glob("*.ff")
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        del content[len(content) * 2 // 3 :]
    elif damage == "flip a weight":
        content[-5] ^= 1
    elif damage == "flip the header":
        content[100] ^= 1
    elif damage == "empty":
        content.clear()
    else:
        content[:] = bytes(len(content))
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="flashflow"):
        again = LLM(places[0], cache_dir=tmp_path, device="cpu")
    assert "damaged" in caplog.text and again.timing.compile_s > 0
    assert again.generate("hello", GREEDY)[0].token_ids == expected


def test_engine_file_is_opened_as_it_is(places, llm, tmp_path):
    (path,) = (places[1] / "engines").glob("*.ff")
    direct = LLM(path, cache_dir=tmp_path)
    assert direct.dtype == "float32" and not list(tmp_path.iterdir())
    assert direct.generate("hello", GREEDY)[0].token_ids == llm.generate("hello", GREEDY)[0].token_ids
    with pytest.raises(InvalidArgumentError, match="dtype is 'bfloat16'.*float32"):
        LLM(path, dtype="bfloat16")
    damaged = tmp_path / "damaged.ff"
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataLossError):
        LLM(damaged)


def test_bfloat16_weights_are_another_engine_and_close(places, module, llm, tmp_path):
    narrow = LLM(places[0], dtype="bfloat16", cache_dir=tmp_path, device="cpu")
    assert narrow.dtype == "bfloat16"
    ids = llm.encode("What comes next?")
    wide_logits, narrow_logits = llm.logits(ids), narrow.logits(ids)
    # The same weights rounded to 8 bits in torch, cache left wide: of the order of what narrowing does.
    with torch.no_grad():
        rounded = {k: v.bfloat16().float() if v.dim() == 2 else v for k, v in module.state_dict().items()}
        expected = torch.func.functional_call(module, rounded, (torch.tensor([ids]), torch.arange(len(ids))[None]))[0]
    change = np.abs(expected.numpy() - wide_logits).max()
    assert 0 < np.abs(narrow_logits - wide_logits).max() <= 3 * change


def test_int8_weights_are_codes_and_close(places, llm, tmp_path):
    coded = LLM(places[0], dtype="int8", cache_dir=tmp_path, device="cpu")
    assert coded.dtype == "int8"
    (path,), (wide,) = ((folder / "engines").glob("*.ff") for folder in (tmp_path, places[1]))
    assert path.stat().st_size < wide.stat().st_size and LLM(path, dtype="int8").dtype == "int8"
    with pytest.raises(InvalidArgumentError, match="dtype is 'float32'.*int8"):
        LLM(path, dtype="float32")
    ids = llm.encode("What comes next?")
    wide_logits, logits = llm.logits(ids), coded.logits(ids)
    # Steps of 1/127 of the largest element, of rows and of weights: a few percent over the layers.
    assert 0 < np.linalg.norm(logits - wide_logits) < 0.1 * np.linalg.norm(wide_logits)


def test_int4_weights_are_smaller_still(places, llm, tmp_path):
    four, eight = (LLM(places[0], dtype=dtype, cache_dir=tmp_path / dtype, device="cpu") for dtype in ("int4", "int8"))
    assert four.dtype == "int4"
    paths = [next((tmp_path / name / "engines").glob("*.ff")) for name in ("int4", "int8")]
    assert paths[0].stat().st_size < paths[1].stat().st_size
    ids = llm.encode("What comes next?")
    wide, logits, finer = llm.logits(ids), four.logits(ids), eight.logits(ids)
    # Half a step is a thirtieth of a group's range: about 6% of a weight's size, in each of the layers.
    assert np.linalg.norm(finer - wide) < np.linalg.norm(logits - wide) < 0.3 * np.linalg.norm(wide)


def test_progress_names_the_stages(places, module, tmp_path):
    stages = []
    LLM(places[0], cache_dir=tmp_path, device="cpu", progress=lambda stage, fraction: stages.append(stage))
    seen = list(dict.fromkeys(stages))
    assert seen[-1] == "opening" and {"exporting", "compiling", "writing"} <= set(seen)


def test_the_plan_has_a_roofline(llm, places):
    roofline = llm.plan.roofline(tokens=4, context=6)
    assert (roofline.tokens, roofline.context, len(roofline)) == (4, 6, len(roofline.rows))
    assert "fused_linear" in [row.op for row in roofline]
    assert all(row.floor_us > 0 and row.achieved_us > 0 and row.percent > 0 for row in roofline)
    assert any(row.loc for row in roofline)
    assert (places[1] / "devices").is_dir(), "measured at first use and kept"
    assert str(roofline).splitlines()[1] == "a step of 4 tokens with 6 in the KV cache"
    there = llm.plan.roofline("h200")
    assert there.device == "NVIDIA H200 SXM"
    assert there.context == min(512, CONTEXT_LENGTH)
    assert there.achieved_us is None and all(row.achieved_us is None for row in there)
    assert [row.op for row in there] == [row.op for row in roofline]
    for options in ({"tokens": 0}, {"context": True}, {"tokens": 3, "context": 2}, {"context": CONTEXT_LENGTH + 1}):
        with pytest.raises(InvalidArgumentError):
            llm.plan.roofline("h200", **options)
    with pytest.raises(NotFoundError, match="h2000"):
        llm.plan.roofline("h2000")
