"""Peers of the CPU suite beside torch: other engines on the same model, where they are installed.

None is part of FlashFlow's environment. `pip install --target DIR` puts them into a folder, which --peers-path names:

    pip install --target DIR --no-deps ctranslate2 onnxruntime onnxruntime-genai onnx onnx_ir ml_dtypes \
        flatbuffers protobuf
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Peer(Protocol):
    """An engine with a model in it."""

    name: str  # with the type of its weights: "CTranslate2 int8"

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        """Seconds of the prompt to the first token, and of each of `tokens` greedy tokens after it."""


class _CTranslate2:
    def __init__(self, model: Path, dtype: str, threads: int, folder: Path) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(model)).convert(str(folder), quantization=dtype)
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

    def __init__(self, model: Path, dtype: str, threads: int, folder: Path) -> None:
        import onnxruntime_genai

        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-o", str(folder)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with _quiet():
            subprocess.run([*command, "-p", "fp32", "-e", "cpu"], env=environment, check=True, capture_output=True)
        if dtype == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            with _quiet():
                quantize_dynamic(
                    folder / "model.onnx", folder / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8
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


_ENGINES: list[tuple[str, str, Callable[[Path, str, int, Path], Peer]]] = [
    ("ctranslate2", "CTranslate2", _CTranslate2),
    ("onnxruntime_genai", "ONNX Runtime", _OnnxRuntime),
]


def find(
    model: Any, dtype: str, threads: int, folder: Path, search: Path | None, log: Callable[[str], None]
) -> list[Peer]:
    """The peers that are installed and take the model; a sentence for each of the others.

    Args:
        model: a causal LM of transformers.
        dtype: of ours; peers run int8 beside int8, and float32 beside all else.
        threads: of each.
        folder: for their files.
        search: a folder of packages beside the environment's own.
        log: told what is going on.
    """
    if search is not None and str(search) not in sys.path:
        sys.path.append(str(search))
    dtype = "int8" if dtype == "int8" else "float32"
    peers: list[Peer] = []
    saved = folder / "peers_model"
    for module, name, engine in _ENGINES:
        try:
            importlib.import_module(module)
        except ImportError as error:
            log(f"bench: {name} is left out: {error}; --peers-path names a folder that has it")
            continue
        try:
            if not saved.exists():
                _save(model, saved)
            own = folder / f"{module}_{dtype}"
            peers.append(engine(saved, dtype, threads, own))
        except Exception as error:  # whatever another project raises: a peer is no part of what is measured
            told = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else str(error)
            reason = (told.strip().splitlines() or [""])[-1]
            log(f"bench: {name} {dtype} is left out: {type(error).__name__}: {reason[:200]}")
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
