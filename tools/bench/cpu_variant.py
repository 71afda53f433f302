"""One variant of the CPU suite, in a process of its own: ours or a peer, which runs prompts as it is asked to.

The commands are `convert` and `open`, each with MODULE MODEL FOLDER DTYPE THREADS (cpu_peers.Engine). The answer to
the start is a line of JSON, and `open` answers each further line [prompt, tokens] with one; {"error": ...} is the last.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
from pathlib import Path

from tools.bench.cpu_peers import PEERS, Engine


class _Ours:
    def __init__(self, model: Path, folder: Path, dtype: str, threads: int) -> None:
        from flashflow import LLM

        self._llm = LLM(str(model), dtype=dtype, device="cpu", threads=threads, max_batch=1, cache_dir=folder)
        self.weight_bytes = self._llm.engine_info()["weight_bytes_per_token"]

    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        from flashflow import SamplingParams

        # The first token is the prompt's.
        params = SamplingParams(temperature=0, max_tokens=1 + tokens, ignore_eos=True)
        timing = self._llm.generate(prompt, params)[0].timing
        return timing.prefill_s, 1 / timing.decode_tok_s


OURS = Engine("flashflow", "FlashFlow", {}, lambda *_: None, _Ours)


def _reason(error: Exception) -> str:
    last = (str(error).strip().splitlines() or [""])[-1][:200]
    hint = "; tools/bench/cpu_peers.py says how to install it" if isinstance(error, ImportError) else ""
    return f"{type(error).__name__}: {last}{hint}"


def main() -> None:
    """Runs the command line."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: who is stopped would outlive the suite
    command, module, model, folder, dtype, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print what they like

    def answer(**values: float | str) -> None:
        answers.write(json.dumps(values) + "\n")

    try:
        (engine,) = (engine for engine in [OURS, *PEERS] if engine.module == module)
        importlib.import_module(module)
        if command == "convert":
            engine.convert(Path(model), Path(folder), dtype)
            answer()
            return
        variant = engine.open(Path(model), Path(folder), dtype, int(threads))
        answer(weight_bytes=getattr(variant, "weight_bytes", 0))  # a token's; ours alone says it
        for line in sys.stdin:
            prefill, decode = variant.run(*json.loads(line))
            answer(prefill_s=prefill, decode_s=decode)
    except Exception as error:  # whatever another project raises: a peer is no part of what is measured
        answer(error=_reason(error))


if __name__ == "__main__":
    main()
