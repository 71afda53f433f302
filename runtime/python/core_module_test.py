"""flashflow._core: conversions, errors, the GIL. What the C++ library computes is tested beside its parts."""

import gc
import json
import logging
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import safetensors

from flashflow import _core, errors
from flashflow.log import log_from_core

DATA = Path(__file__).parent.parent / "api"
ENGINE = DATA / "tiny.ff"
GRAPH = (DATA / "tiny.json").read_text()
VOCABULARY, CONTEXT = 61, 64
CONFIG = json.dumps({"name": "tiny", "architecture": "test", "eos_token_ids": [7]})

Weights = dict[str, npt.NDArray[np.float32]]


@pytest.fixture(name="weights")
def _weights() -> Weights:
    rng = np.random.default_rng(1)
    return {w["name"]: rng.uniform(-0.3, 0.3, w["shape"]).astype(np.float32) for w in json.loads(GRAPH)["weights"]}


@pytest.fixture(name="engine")
def _engine() -> _core.Engine:
    return _core.Engine(str(ENGINE), threads=1, max_batch=4)


def build(path: Path, weights: object, **options: object) -> None:
    _core.build_engine(
        str(path), GRAPH, weights, CONFIG, b"", {"max_tokens": 16, "max_rows": 8, "max_logit_rows": 8, **options}
    )


def generate(engine: _core.Engine, prompt: list[int], **params: object) -> list[int]:
    request = engine.submit(prompt, _core.SamplingParams(**params))
    tokens = []
    while engine.has_work():
        tokens += [event.token for event in engine.step() if event.request == request]
    return tokens


# --- the engine --------------------------------------------------------------


def test_roofline(engine: _core.Engine, tmp_path: Path) -> None:
    steps = json.loads(_core.compile_plan(_core.import_graph(GRAPH)))["steps"]
    found = engine.roofline(device="h200", tokens=3, context=9)
    assert found["device"] == "NVIDIA H200 SXM"
    assert [row["op"] for row in found["rows"]] == [step["op"] for step in steps]
    assert all(row["floor_us"] > 0 and row["achieved_us"] == 0 for row in found["rows"])
    logits = engine.forward([1, 2, 3])
    measured = engine.roofline(tokens=16, context=CONTEXT, cache_folder=str(tmp_path))
    assert all(row["achieved_us"] > 0 for row in measured["rows"])
    assert [row["loc"] for row in measured["rows"]] == [step["loc"] for step in steps]
    assert list((tmp_path / "devices").iterdir()), "what was measured of the CPU is kept"
    assert (engine.forward([1, 2, 3]) == logits).all(), "the pages that it borrowed are free again"
    assert not engine.roofline(tokens=1, context=1, measure=False, cache_folder=str(tmp_path))["rows"][0]["achieved_us"]
    for tokens, context, message in [
        (0, 1, "tokens is 0; a step of this plan takes 1 to 16"),
        (17, 20, "tokens is 17"),
        (5, 4, "context is 4; expected 5"),
        (1, CONTEXT + 1, f"context is {CONTEXT + 1}"),
    ]:
        with pytest.raises(errors.InvalidArgumentError, match=message):
            engine.roofline(device="h200", tokens=tokens, context=context)
    with pytest.raises(errors.NotFoundError, match="h200, cpu, or a .json file"):
        engine.roofline(device="h2000", tokens=1, context=1)


def test_a_request_from_prompt_to_end(engine: _core.Engine) -> None:
    request = engine.submit([1, 2, 3], _core.SamplingParams(temperature=0, max_tokens=4, logprobs=3, ignore_eos=True))
    events = []
    while engine.has_work():
        events += engine.step()
    assert [event.request for event in events] == [request] * 4
    assert [event.finish_reason for event in events] == ["", "", "", "length"]
    sequence = [1, 2, 3, *(event.token for event in events)]
    logits = engine.forward(sequence)
    assert logits.dtype == np.float32
    assert logits.shape == (7, VOCABULARY)
    for i, event in enumerate(events):
        row = logits[2 + i].astype(np.float64)
        logprobs = row - np.log(np.exp(row).sum())
        assert event.token == row.argmax()
        assert event.logprob == pytest.approx(logprobs[event.token], abs=1e-6)
        assert [token for token, _ in event.top_logprobs] == list(np.argsort(-row)[:3])


def test_info(engine: _core.Engine) -> None:
    info = engine.info()
    assert info["name"] == "tiny"
    assert info["dtype"] == "float32"
    assert (info["vocab_size"], info["context_length"], info["max_batch"]) == (VOCABULARY, CONTEXT, 4)
    assert info["eos_token_ids"] == [7]
    assert json.loads(info["config_json"])["architecture"] == "test"
    assert isinstance(info["tokenizer_json"], bytes)
    assert json.loads(info["tokenizer_json"])["model"]["type"] == "BPE"
    assert 0 < info["weight_bytes_per_token"] < info["weight_bytes"]


def test_cancel(engine: _core.Engine) -> None:
    request = engine.submit([1], _core.SamplingParams())
    assert engine.cancel(request) is True
    assert engine.cancel(request) is False
    assert not engine.has_work()
    assert engine.step() == []


def test_threads_share_an_engine(engine: _core.Engine) -> None:
    expected = engine.forward(list(range(40)))
    same = []

    def work() -> None:
        for _ in range(5):
            same.append(np.array_equal(engine.forward(list(range(40))), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 20


# --- errors ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 1000}, "logprobs"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
    ],
)
def test_sampling_params_are_checked_when_made(params: dict[str, object], name: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=name) as caught:
        _core.SamplingParams(**params)
    assert isinstance(caught.value, ValueError)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_unknown_sampling_params_are_a_type_error() -> None:
    with pytest.raises(TypeError):
        _core.SamplingParams(temprature=1)


@pytest.mark.parametrize("prompt", [[], [VOCABULARY], [-1], [2**31], list(range(60)) * 2])
def test_bad_prompts(engine: _core.Engine, prompt: list[int]) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        engine.submit(prompt, _core.SamplingParams())
    with pytest.raises(errors.InvalidArgumentError):
        engine.forward(prompt)


def test_opening_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFoundError, match=r"absent\.ff") as caught:
        _core.Engine(str(tmp_path / "absent.ff"))
    assert caught.value.op == str(tmp_path / "absent.ff")
    damaged = tmp_path / "damaged.ff"
    content = bytearray(ENGINE.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(errors.DataLossError, match=r"weight .* is damaged"):
        _core.Engine(str(damaged), max_batch=1)
    damaged.write_bytes(content[:-100])
    with pytest.raises(errors.DataLossError, match="truncated"):
        _core.Engine(str(damaged), max_batch=1)


def test_bad_options(tmp_path: Path, weights: Weights) -> None:
    with pytest.raises(errors.FailedPreconditionError, match='use the device "cpu"'):
        _core.Engine(str(ENGINE), device="cuda")
    with pytest.raises(errors.FailedPreconditionError, match='^device.*use the device "cpu"'):
        _core.check_device("cuda")
    with pytest.raises(errors.InvalidArgumentError, match="^threads is 100000"):
        _core.check_device(threads=100_000)
    with pytest.raises(errors.InvalidArgumentError, match="max_batch"):
        _core.Engine(str(ENGINE), max_batch=0)
    with pytest.raises(errors.InvalidArgumentError, match="page_sizes"):
        build(tmp_path / "x.ff", weights, page_sizes=3)
    with pytest.raises(errors.InvalidArgumentError, match="page_size"):
        build(tmp_path / "x.ff", weights, page_size="large")


# --- building ----------------------------------------------------------------


def test_an_engine_is_a_safetensors_file_that_holds_the_weights(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "model.ff"
    build(path, weights)
    with safetensors.safe_open(str(path), framework="numpy") as file:
        assert file.metadata()["format"] == "flashflow.engine"
        assert bytes(file.get_tensor("ff.graph")).startswith(b"ffir 1\n")
        assert json.loads(bytes(file.get_tensor("ff.plan.cpu")))["device_key"].startswith("cpu/")
        stored = {name for name in file.keys() if not name.startswith("ff.")}  # noqa: SIM118
        assert stored == set(weights)
        for name, array in weights.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
    assert len(generate(_core.Engine(str(path), max_batch=1), [1], max_tokens=3, ignore_eos=True)) == 3


def test_weights_come_in_any_float_dtype_and_from_any_mapping(tmp_path: Path, weights: Weights) -> None:
    bits = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in weights.items()}
    exact = {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in bits.items()}

    class Lazy:
        """Makes each array when it is asked for, and nothing before."""

        def __contains__(self, name: str) -> bool:
            return name in bits

        def __getitem__(self, name: str) -> npt.NDArray[np.uint16]:
            gc.collect()  # whatever the writer does not hold is gone
            return bits[name].copy()

    build(tmp_path / "lazy.ff", Lazy())
    build(tmp_path / "exact.ff", exact)
    assert (tmp_path / "lazy.ff").read_bytes() == (tmp_path / "exact.ff").read_bytes()
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    build(tmp_path / "halves.ff", halves)
    with safetensors.safe_open(str(tmp_path / "halves.ff"), framework="numpy") as file:
        for name, array in halves.items():
            np.testing.assert_array_equal(file.get_tensor(name), array.astype(np.float32))


def test_bfloat16_is_stored_rounded_to_even(tmp_path: Path, weights: Weights) -> None:
    build(tmp_path / "narrow.ff", weights, dtype="bf16")
    engine = _core.Engine(str(tmp_path / "narrow.ff"), max_batch=1)
    assert engine.info()["dtype"] == "bfloat16"
    header = (tmp_path / "narrow.ff").read_bytes()
    length = int.from_bytes(header[:8], "little")
    entries = json.loads(header[8 : 8 + length])
    name = next(name for name, entry in entries.items() if name in weights and entry["dtype"] == "BF16")
    begin, end = entries[name]["data_offsets"]
    stored = np.frombuffer(header[8 + length + begin : 8 + length + end], np.uint16)
    bits = weights[name].reshape(-1).view(np.uint32).astype(np.uint64)
    np.testing.assert_array_equal(stored, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda array: None, errors.NotFoundError, "no weight"),
        (lambda array: array.tolist(), errors.InvalidArgumentError, "a list; expected a NumPy array"),
        (lambda array: array.astype(np.float64), errors.InvalidArgumentError, "float64"),
        (lambda array: array.astype(">f4"), errors.InvalidArgumentError, ">f4"),
        (lambda array: array.astype(np.int32), errors.InvalidArgumentError, "i32"),
        (lambda array: array[:-1], errors.InvalidArgumentError, "shape"),
        (lambda array: np.asfortranarray(array), errors.InvalidArgumentError, "ascontiguousarray"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, weights: Weights, change, error, message) -> None:  # type: ignore[no-untyped-def]
    name = next(name for name, array in weights.items() if array.ndim == 2)
    changed = dict(weights)
    changed[name] = change(weights[name])
    if changed[name] is None:
        del changed[name]
    with pytest.raises(error, match=message) as caught:
        build(tmp_path / "x.ff", changed)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_whole_and_its_exception_ends_the_build(tmp_path: Path, weights: Weights) -> None:
    calls = []
    options = {"max_tokens": 16}
    path = tmp_path / "x.ff"
    _core.build_engine(str(path), GRAPH, weights, CONFIG, b"", options, lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (path.stat().st_size, path.stat().st_size)
    path.unlink()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _core.build_engine(str(path), GRAPH, weights, CONFIG, b"", options, interrupt)
    assert list(tmp_path.iterdir()) == []


# --- compiled graphs ---------------------------------------------------------


def scale_graph() -> str:
    """y[N, 3] = x[N, 4] times the transpose of w[3, 4]; and x itself."""
    x, w = {"dtype": "f32", "shape": ["N", 4]}, {"dtype": "f32", "shape": [3, 4]}
    node = {"id": "n0", "target": "aten.linear.default", "args": [{"ref": "x"}, {"ref": "w"}], "kwargs": {}}
    return json.dumps(
        {
            "format": "flashflow.graph",
            "version": 1,
            "producer": {},
            "name": "scale",
            "metadata": {},
            "symbols": [{"name": "N", "min": 0, "max": 10}],
            "inputs": [{"id": "x", "name": "x", **x}],
            "weights": [{"id": "w", "name": "w", **w}],
            "nodes": [{**node, "dtype": "f32", "shape": ["N", 3], "module": "", "source": "m.py:3"}],
            "outputs": [{"id": "n0", "name": "y"}, {"id": "x", "name": "same"}],
        }
    )


def test_a_compiled_graph_runs_on_arrays() -> None:
    graph = _core.CompiledGraph(scale_graph())
    assert graph.symbols == ["N"]
    assert graph.inputs == [("x", "f32", ["N", "4"])]
    assert graph.outputs == [("y", "f32", ["N", "3"]), ("same", "f32", ["N", "4"])]
    assert graph.weights == [(["w"], "f32", [3, 4], "panel16", False)]
    assert json.loads(graph.plan)["limits"]["max_tokens"] == 0
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 4)).astype(np.float32)
    packed = _core.PackedWeight(w, "panel16")
    assert packed.nbytes == 16 * 4 * 4
    for rows in (0, 1, 7):
        x = rng.standard_normal((rows, 4)).astype(np.float32)
        y, same = graph.run([rows], [x], [packed])
        np.testing.assert_allclose(y, x @ w.T, atol=4 * 8 * np.finfo(np.float32).eps)
        np.testing.assert_array_equal(same, x)
        assert not np.shares_memory(same, x)


def test_what_does_not_fit_a_compiled_graph() -> None:
    graph = _core.CompiledGraph(scale_graph())
    w = _core.PackedWeight(np.zeros((3, 4), np.float32), "panel16")
    x = np.zeros((2, 4), np.float32)
    refused: list[tuple[list[int], list[object], list[object], str]] = [
        ([2], [], [w], "expected 1 inputs"),
        ([], [x], [w], "expected 1 sizes"),
        ([11], [x], [w], "size N is 11"),
        ([3], [x], [w], r"f32\[2, 4\], expected f32\[3, 4\]"),
        ([2], [x.astype(np.int64)], [w], "i64"),
        ([2], [x.T.copy().T], [w], "not contiguous"),
        ([2], ["x"], [w], "NumPy array"),
        ([2], [np.zeros((1,) * 7, np.float32)], [w], "7 dimensions"),
        ([2], [x], [], "expected 1 weights"),
        ([2], [x], [None], "None"),
        ([2], [x], [_core.PackedWeight(np.zeros((4, 3), np.float32), "panel16")], r"weight \"w\" is f32\[4, 3\]"),
        ([2], [x], [_core.PackedWeight(np.zeros((3, 4), np.float32), "row_major")], "row_major, expected panel16"),
    ]
    for sizes, inputs, weights, message in refused:
        with pytest.raises(errors.InvalidArgumentError, match=message):
            graph.run(sizes, inputs, weights)
    with pytest.raises(errors.InvalidArgumentError, match="spiral"):
        _core.PackedWeight(np.zeros((3, 4), np.float32), "spiral")
    with pytest.raises(errors.InvalidArgumentError, match="panel16"):
        _core.PackedWeight(np.zeros(3, np.float32), "panel16")


def test_a_graph_is_launched_on_its_own_device_alone() -> None:
    graph = _core.CompiledGraph(scale_graph())
    assert graph.output_dims([7]) == [[7, 3], [7, 4]]
    assert graph.arena_bytes([7]) >= 0
    with pytest.raises(errors.InvalidArgumentError, match="size N is 11"):
        graph.arena_bytes([11])
    x, w, y, same = (np.zeros(shape, np.float32) for shape in ((2, 4), (3, 4), (2, 3), (2, 4)))

    def tensor(array: np.ndarray, dtype: str = "f32") -> tuple[int, str, tuple[int, ...]]:
        return array.ctypes.data, dtype, array.shape

    arguments = [tensor(w)], [tensor(y), tensor(same)], (0, 0), 0
    with pytest.raises(errors.InvalidArgumentError, match="on the CPU takes no arena"):
        graph.launch([2], [tensor(x)], *arguments)
    with pytest.raises(errors.InvalidArgumentError, match='no dtype is named "f99"'):
        graph.launch([2], [tensor(x, "f99")], *arguments)
    with pytest.raises(errors.InvalidArgumentError, match="7 dimensions"):
        graph.launch([2], [(0, "f32", (1,) * 7)], *arguments)
    with pytest.raises(errors.InvalidArgumentError, match="npu"):
        _core.CompiledGraph(scale_graph(), "npu")


def test_a_row_major_weight_is_the_array_which_it_keeps() -> None:
    array = np.zeros((3, 4), np.float32)
    references = sys.getrefcount(array)
    weight = _core.PackedWeight(array, "row_major")
    assert sys.getrefcount(array) == references + 1
    del weight
    gc.collect()
    assert sys.getrefcount(array) == references
    _core.PackedWeight(array, "panel16")
    assert sys.getrefcount(array) == references


def test_check_graph_says_what_has_no_kernel() -> None:
    _core.check_graph(scale_graph())
    with pytest.raises(errors.UnsupportedError, match="m.py:3"):
        _core.check_graph(scale_graph().replace("f32", "f16"))
    with pytest.raises(errors.InvalidArgumentError, match="aten.linear.other"):
        _core.check_graph(scale_graph().replace("linear.default", "linear.other"))
    for text in ("", "{}", "[]", scale_graph()[:-1]):
        with pytest.raises(errors.InvalidArgumentError):
            _core.CompiledGraph(text)


# --- the compiler ------------------------------------------------------------


def test_the_compilers_stages_by_text(weights: Weights) -> None:
    text = _core.import_graph(GRAPH)
    assert _core.parse_ir(text) == text
    _core.verify(text)
    assert _core.run_passes(text, []) == text
    assert {"kv-cache", "dce"} <= set(_core.list_passes())
    assert "cached_attention" in _core.run_passes(text, None, {"dtype": "bf16"})
    plan = json.loads(_core.compile_plan(text, {"max_tokens": 32}))
    assert plan["limits"]["max_tokens"] == 32


def test_interpret_agrees_with_the_engine(tmp_path: Path, weights: Weights) -> None:
    build(tmp_path / "x.ff", weights)
    tokens = np.arange(20)[None] % VOCABULARY
    inputs = {"input_ids": tokens, "position_ids": np.arange(20)[None]}
    text = _core.import_graph(GRAPH)
    wide = _core.interpret(text, inputs, weights, "wide")["logits"]
    typed = _core.interpret(text, inputs, weights)["logits"]
    assert (wide.dtype, typed.dtype) == (np.float64, np.float32)
    ours = _core.Engine(str(tmp_path / "x.ff"), max_batch=1).forward(tokens[0].tolist())
    np.testing.assert_allclose(ours, wide[0], rtol=0, atol=1e-4 * np.abs(wide).max())
    np.testing.assert_allclose(typed[0], wide[0], rtol=0, atol=1e-4 * np.abs(wide).max())


@pytest.mark.parametrize(
    "call", [_core.import_graph, _core.parse_ir, _core.verify, _core.run_passes, _core.compile_plan]
)
def test_text_that_is_nonsense(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(errors.InvalidArgumentError):
        call("nonsense")


def test_interpret_checks_its_arguments(weights: Weights) -> None:
    text = _core.import_graph(GRAPH)
    with pytest.raises(errors.InvalidArgumentError, match="mode"):
        _core.interpret(text, {}, weights, "loose")
    with pytest.raises(errors.FlashFlowError):
        _core.interpret(text, {}, weights)
    with pytest.raises(errors.InvalidArgumentError, match="input_ids"):
        _core.interpret(text, {"input_ids": [[1, 2]]}, weights)


# --- logging -----------------------------------------------------------------


def test_log_records_reach_python(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    _core.set_log_handler(log_from_core)
    with caplog.at_level(logging.INFO, logger="flashflow"):
        _core.Engine(str(ENGINE), max_batch=1)
    _core.set_log_handler(None)
    assert any("tiny.ff" in record.message and record.levelno == logging.INFO for record in caplog.records)
    count = len(caplog.records)
    _core.Engine(str(ENGINE), max_batch=1)
    assert len(caplog.records) == count
    assert capfd.readouterr() == ("", "")


def test_a_log_handler_that_fails_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*record: object) -> None:
        raise LookupError(record)

    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: unraisable.append(event.exc_type))
    _core.set_log_handler(fail)
    _core.Engine(str(ENGINE), max_batch=1)
    _core.set_log_handler(None)
    assert unraisable == [LookupError]


def test_version() -> None:
    assert _core.version() == "0.1.0"
