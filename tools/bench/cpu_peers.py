"""Peers of the CPU suite beside torch: other engines on the same model, where they are installed.

None is part of FlashFlow's environment. `pip install --target DIR` puts them into a folder, which --peers-path names:

    pip install --target DIR --no-deps ctranslate2 onnxruntime onnxruntime-genai onnx onnx_ir ml_dtypes \
        flatbuffers protobuf
    CMAKE_ARGS='-DCMAKE_CXX_FLAGS="-fno-tree-dse -fno-dse"' pip install --target DIR --no-deps llama-cpp-python

llama.cpp is built on the spot. Without these flags GCC 12 drops most of what sets up the matrix unit AMX, as its
intrinsic reads less than it should say, and the first prompt ends in a segmentation fault on CPUs that have one.
"""

import ctypes
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tools.bench import gpt2_onnx, llama_gguf


class Peer(Protocol):
    """An engine with a model in it."""

    name: str  # with the type of its weights: "CTranslate2 int8"

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        """Seconds of the prompt to the first token, and of each of `tokens` greedy tokens after it."""


class _CTranslate2:
    def __init__(self, model: Any, saved: Path, dtype: str, threads: int, folder: Path) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(saved)).convert(str(folder), quantization=dtype)
        self.name = f"CTranslate2 {dtype}"
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


class _OnnxRuntime:
    """By onnxruntime-genai: the model as its builder exports it; int8 by onnxruntime's dynamic quantization."""

    def __init__(self, model: Any, saved: Path, dtype: str, threads: int, folder: Path) -> None:
        import onnxruntime_genai

        if model.config.model_type == "gpt2":
            gpt2_onnx.write(model, folder)
        else:
            command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(saved), "-o", str(folder)]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            with _quiet():
                subprocess.run([*command, "-p", "fp32", "-e", "cpu"], env=environment, check=True, capture_output=True)
            _logits_of_last_token(folder / "model.onnx")
        if dtype == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            with _quiet():
                quantize_dynamic(
                    folder / "model.onnx",
                    folder / "int8.onnx",
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    extra_options={"DefaultTensorType": 1},  # float, where it does not know an operator's type
                )
        config = json.loads((folder / "genai_config.json").read_text())
        decoder = config["model"]["decoder"]
        decoder["filename"] = "int8.onnx" if dtype == "int8" else "model.onnx"
        decoder["session_options"]["intra_op_num_threads"] = threads
        (folder / "genai_config.json").write_text(json.dumps(config))
        self.name = f"ONNX Runtime {dtype}"
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


class _LlamaCpp:
    def __init__(self, model: Any, saved: Path, dtype: str, threads: int, folder: Path) -> None:
        import llama_cpp

        self.name = f"llama.cpp {dtype}"
        self._api = llama_cpp
        self._log = llama_cpp.llama_log_callback(lambda *_: None)  # kept: C holds no reference
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        folder.mkdir()
        path = folder / "F32.gguf"
        llama_gguf.write(model, path)
        if dtype != "F32":
            how = llama_cpp.llama_model_quantize_default_params()
            how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{dtype}")
            source, path = path, folder / f"{dtype}.gguf"
            if llama_cpp.llama_model_quantize(bytes(source), bytes(path), ctypes.byref(how)):
                raise RuntimeError(f"llama.cpp does not quantize to {dtype}")
        self._model = llama_cpp.llama_model_load_from_file(bytes(path), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = min(model.config.max_position_embeddings, 2048)
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError("llama.cpp does not open the model")
        self._vocabulary = model.config.vocab_size

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


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what libraries print."""
    with open(os.devnull, "w") as nowhere:
        saved = sys.stdout
        sys.stdout = nowhere
        try:
            yield
        finally:
            sys.stdout = saved


@dataclass(frozen=True)
class _Engine:
    module: str
    name: str
    dtypes: dict[str, str]  # of ours: what theirs is beside it, and is called there; others are not run
    make: Callable[[Any, Path, str, int, Path], Peer]


_FLOAT = {"float32": "float32", "bfloat16": "float32", "int8": "int8"}
_GGML = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_1"}
_ENGINES = [
    _Engine("ctranslate2", "CTranslate2", _FLOAT, _CTranslate2),
    _Engine("onnxruntime_genai", "ONNX Runtime", _FLOAT, _OnnxRuntime),
    _Engine("llama_cpp", "llama.cpp", _GGML, _LlamaCpp),
]


def find(
    model: Any, dtype: str, threads: int, folder: Path, search: Path | None, log: Callable[[str], None]
) -> list[Peer]:
    """The peers that are installed and take the model; a sentence for each of the others.

    Args:
        model: a causal LM of transformers.
        dtype: of ours.
        threads: of each.
        folder: for their files.
        search: a folder of packages beside the environment's own.
        log: told what is going on.
    """
    if search is not None and str(search) not in sys.path:
        sys.path.append(str(search))
    peers: list[Peer] = []
    saved = folder / "peers_model"
    for engine in _ENGINES:
        theirs = engine.dtypes.get(dtype)
        if theirs is None:
            continue
        try:
            importlib.import_module(engine.module)
        except ImportError as error:
            log(f"bench: {engine.name} is left out: {error}; tools/bench/cpu_peers.py says how to install it")
            continue
        try:
            if not saved.exists():
                _save(model, saved)
            peers.append(engine.make(model, saved, theirs, threads, folder / f"{engine.module}_{theirs}"))
        except Exception as error:  # whatever another project raises: a peer is no part of what is measured
            told = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else str(error)
            reason = (told.strip().splitlines() or [""])[-1]
            log(f"bench: {engine.name} {theirs} is left out: {type(error).__name__}: {reason[:200]}")
    return peers


def _save(model: Any, folder: Path) -> None:
    """As transformers keeps a model, with a tokenizer that gives each id a name of its own."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)  # of a GGUF: what is in memory is float32
    model.save_pretrained(folder)
    names = {f"t{i}": i for i in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="t0"))
    last = f"t{model.config.vocab_size - 1}"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="t0", bos_token=last, eos_token=last).save_pretrained(
        folder
    )
