"""Peers of the CPU suite: other engines on the same model, where they are installed.

None but torch is part of FlashFlow's environment. `pip install --target DIR` puts them into a folder, which
--peers-path names:

    pip install --target DIR --no-deps ctranslate2 onnxruntime onnxruntime-genai onnx onnx_ir ml_dtypes \
        flatbuffers protobuf diskcache
    CMAKE_ARGS='-DCMAKE_CXX_FLAGS="-fno-tree-dse -fno-dse"' pip install --target DIR --no-deps llama-cpp-python

llama.cpp is built on the spot. Without these flags GCC 12 drops most of what sets up the matrix unit AMX, as its
intrinsic reads less than it should say, and the first prompt ends in a segmentation fault on CPUs that have one.
"""

import ctypes
import json
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


class Variant(Protocol):
    """An engine with a model in it."""

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        """Seconds of the prompt to the first token, and of each of `tokens` greedy tokens after it."""


@dataclass(frozen=True)
class Engine:
    """An engine's package.

    convert writes a model (saved_model.py) into a folder in the engine's own form and the type of dtypes; open has that
    model run by a number of threads. Each has a process to itself, so that open's holds nothing of what convert needs.
    """

    module: str
    name: str
    dtypes: dict[str, str]  # of ours: what theirs is beside it, and is called there; others are not run
    convert: Callable[[Path, Path, str], None]  # model, folder, type
    open: Callable[[Path, Path, str, int], Variant]  # and threads


class _Torch:
    """transformers' model class, by its own forward and cache; of the prompt, logits of the last position only."""

    def __init__(self, model: Path, folder: Path, dtype: str, threads: int) -> None:
        import torch
        from tools.bench import saved_model

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = saved_model.load(model)

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        tokens = min(tokens, 16)  # it takes its time
        with self._torch.inference_mode():
            ids = self._torch.tensor([prompt])
            start = time.perf_counter()
            out = self._model(ids, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            first = time.perf_counter()
            for _ in range(tokens):
                out = self._model(token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
            return first - start, (time.perf_counter() - first) / tokens


def _to_ctranslate2(model: Path, folder: Path, dtype: str) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(model)).convert(str(folder), quantization=dtype)


class _CTranslate2:
    def __init__(self, model: Path, folder: Path, dtype: str, threads: int) -> None:
        import ctranslate2

        self._names = json.loads((folder / "vocabulary.json").read_text())
        self._generator = ctranslate2.Generator(str(folder), compute_type=dtype, intra_threads=threads)

    def _seconds(self, prompt: list[str], tokens: int) -> float:
        start = time.perf_counter()
        (result,) = self._generator.generate_batch(
            [prompt], max_length=tokens, min_length=tokens, sampling_topk=1, include_prompt_in_result=False
        )
        assert len(result.sequences_ids[0]) == tokens
        return time.perf_counter() - start

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        names = [self._names[token] for token in prompt]
        first = self._seconds(names, 1)
        return first, (self._seconds(names, 1 + tokens) - first) / tokens


def _to_onnx_runtime(model: Path, folder: Path, dtype: str) -> None:
    """The model as onnxruntime-genai's builder exports it; int8 by onnxruntime's dynamic quantization."""
    if json.loads((model / "config.json").read_text())["model_type"] == "gpt2":
        from tools.bench import gpt2_onnx, saved_model

        gpt2_onnx.write(saved_model.load(model), folder)
    else:
        sys.argv = ["builder", "-p", "fp32", "-e", "cpu", "-i", str(model), "-o", str(folder), "-c", f"{folder}/cache"]
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
        _logits_of_last_token(folder / "model.onnx")
    if dtype == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            folder / "model.onnx",
            folder / "int8.onnx",
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},  # float, where it does not know an operator's type
        )


def _logits_of_last_token(path: Path) -> None:
    """The builder's graph computes logits of every token of the prompt, for which nobody asks here."""
    import onnx
    from onnx import helper, numpy_helper

    proto = onnx.load(path, load_external_data=False)
    (head,) = (node for node in proto.graph.node if "logits" in node.output)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last_position"))
    last = helper.make_node("Gather", [head.input[0], "last_position"], ["last_hidden"], axis=1)
    head.input[0] = "last_hidden"
    proto.graph.node.insert(list(proto.graph.node).index(head), last)
    (logits,) = (value for value in proto.graph.output if value.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(proto, path)


class _OnnxRuntime:
    """By onnxruntime-genai."""

    def __init__(self, model: Path, folder: Path, dtype: str, threads: int) -> None:
        import onnxruntime_genai

        config = json.loads((folder / "genai_config.json").read_text())
        decoder = config["model"]["decoder"]
        decoder["filename"] = "int8.onnx" if dtype == "int8" else "model.onnx"
        decoder["session_options"]["intra_op_num_threads"] = threads
        (folder / "genai_config.json").write_text(json.dumps(config))
        self._genai = onnxruntime_genai
        self._model = onnxruntime_genai.Model(str(folder))

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        params = self._genai.GeneratorParams(self._model)
        length = len(prompt) + tokens + 1
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = self._genai.Generator(self._model, params)
        start = time.perf_counter()
        generator.append_tokens([prompt])
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(tokens):
            generator.generate_next_token()
        return first - start, (time.perf_counter() - first) / tokens


def _to_llama_cpp(model: Path, folder: Path, dtype: str) -> None:
    import llama_cpp
    from tools.bench import llama_gguf, saved_model

    folder.mkdir()
    path = folder / "F32.gguf"
    llama_gguf.write(saved_model.load(model), path)
    if dtype != "F32":
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{dtype}")
        if llama_cpp.llama_model_quantize(bytes(path), bytes(folder / f"{dtype}.gguf"), ctypes.byref(how)):
            raise RuntimeError(f"llama.cpp does not quantize to {dtype}")


class _LlamaCpp:
    def __init__(self, model: Path, folder: Path, dtype: str, threads: int) -> None:
        import llama_cpp

        self._api = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            bytes(folder / f"{dtype}.gguf"), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError("llama.cpp does not load the model")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = min(llama_cpp.llama_model_n_ctx_train(self._model), 2048)
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError("llama.cpp does not open the model")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def _next(self, tokens: list[int]) -> int:
        array = (self._api.llama_token * len(tokens))(*tokens)
        if self._api.llama_decode(self._context, self._api.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama.cpp does not decode")
        logits = self._api.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)
        start = time.perf_counter()
        token = self._next(prompt)
        first = time.perf_counter()
        for _ in range(tokens):
            token = self._next([token])
        return first - start, (time.perf_counter() - first) / tokens


_TORCH = dict.fromkeys(("float32", "bfloat16", "int8", "int4"), "fp32")
_FLOAT = {"float32": "float32", "bfloat16": "float32", "int8": "int8"}
_GGML = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_1"}
PEERS = [
    Engine("torch", "torch eager", _TORCH, lambda *_: None, _Torch),
    Engine("ctranslate2", "CTranslate2", _FLOAT, _to_ctranslate2, _CTranslate2),
    Engine("onnxruntime_genai", "ONNX Runtime", _FLOAT, _to_onnx_runtime, _OnnxRuntime),
    Engine("llama_cpp", "llama.cpp", _GGML, _to_llama_cpp, _LlamaCpp),
]
