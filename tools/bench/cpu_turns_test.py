"""Turns of scripts, and of a package that stands in for an engine: one runs, the others stand still."""

import os
import select
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tools.bench.cpu_peers import PEERS
from tools.bench.cpu_turns import Times, VariantProcess, open_variant, take_turns
from tools.bench.json_process import ProcessError

# Answers with numbers that follow from the question; at its fifth does as it was told.
SCRIPT = """
import json, os, sys
name, log, fifth = sys.argv[1:]
print("{}", flush=True)
for number, line in enumerate(sys.stdin):
    prompt, tokens = json.loads(line)
    open(log, "a").write(f"{name} {len(prompt)} {tokens}; ")
    if number == 4:
        exec(fifth)
    print(json.dumps(dict(prefill_s=len(prompt) + ord(name) / 1000, decode_s=tokens)), flush=True)
"""
PROMPTS = [[5] * 3, [6] * 7]
STEADY = Times(4, {3: 3.097, 7: 7.097}), Times(4, {3: 3.098, 7: 7.098}), Times(4, {3: 3.099, 7: 7.099})


@pytest.fixture
def start(tmp_path):
    """A function that starts a script by its name."""
    processes = []

    def started(name, fifth=""):
        command = [sys.executable, "-c", SCRIPT, name, str(tmp_path / "log"), fifth]
        processes.append(VariantProcess(command, dict(os.environ)))
        return processes[-1]

    yield started
    for process in processes:
        process.close()


def _state(process):
    """T where it is stopped."""
    return Path(f"/proc/{process._process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_one_at_a_time_runs_and_what_it_says_is_told(start, tmp_path):
    ours, peers = start("a"), {"first": start("b"), "second": start("c")}
    states = []

    def floor():
        states.append([_state(process) for process in (ours, *peers.values())])
        return 0.5 * len(states)

    said = []
    turns = take_turns(ours, peers, PROMPTS, 4, 2, floor, said.append)
    assert states == [["T", "T", "T"]] * 2
    assert [turn.floor for turn in turns] == [0.5, 1.0]
    assert all((turn.ours, turn.peers["first"], turn.peers["second"]) == STEADY for turn in turns)
    asked = (tmp_path / "log").read_text()
    assert asked == "a 7 2; b 7 2; c 7 2; " + "a 3 4; a 7 1; b 3 4; b 7 1; c 3 4; c 7 1; " * 2
    assert said == ["turn 1 of 2", "turn 2 of 2"]


@pytest.mark.parametrize(
    ("fifth", "reason"),
    [
        ("os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("sys.exit('no memory left')", "no memory left"),
        ("os._exit(3)", "ended with status 3"),
        ("print(json.dumps(dict(error='ValueError: of its own')), flush=True); sys.exit()", "ValueError: of its own"),
    ],
)
def test_a_peer_that_fails_is_left_out(start, fifth, reason):
    peers = {"bad": start("b", fifth), "good": start("c")}
    said = []
    turns = take_turns(start("a"), peers, PROMPTS, 4, 3, lambda: 1.0, said.append)
    assert said == ["turn 1 of 3", "turn 2 of 3", f"bad is left out: {reason}", "turn 3 of 3"]
    assert [(turn.ours, turn.peers) for turn in turns] == [(STEADY[0], {"good": STEADY[2]})] * 3


def test_a_process_that_hangs_fails(start):
    process = start("b", "import signal; signal.pause()")
    assert [process.run([1], tokens) for tokens in range(4)] == [(1.098, tokens) for tokens in range(4)]
    process._timeout = 0.1
    with pytest.raises(ProcessError, match="^gave no answer in 0 s$"):
        process.run([1], 2)


def test_nothing_goes_on_without_ours(start):
    with pytest.raises(ProcessError, match="^ended by SIGKILL$"):
        take_turns(start("a", "os.kill(os.getpid(), 9)"), {"good": start("b")}, PROMPTS, 4, 2, lambda: 1.0, print)


@pytest.fixture
def packages(tmp_path):
    """A folder with a ctranslate2 that is talkative, and refuses float64."""
    folder = tmp_path / "packages/ctranslate2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("""
from types import SimpleNamespace

class Generator:
    def __init__(self, folder, compute_type, intra_threads):
        self._answer = f"{open(folder + '/told').read()} {compute_type} {intra_threads}"

    def generate_batch(self, prompts, max_length, **_):
        print("a line that is no answer", flush=True)
        if max_length > 9:
            raise MemoryError(f"first line\\n{self._answer}: {prompts[0]}")
        return [SimpleNamespace(sequences_ids=[[0] * max_length])]
""")
    (folder / "converters.py").write_text("""
import os

class TransformersConverter:
    def __init__(self, model):
        self._model = model

    def convert(self, folder, quantization):
        print("converting", flush=True)
        if quantization == "float64":
            raise ValueError("no float64")
        os.mkdir(folder)
        open(folder + "/vocabulary.json", "w").write('["zero", "one", "two"]')
        open(folder + "/told", "w").write(f"{self._model} as {quantization}")
""")
    return folder.parent


def _open(module, dtype, folder, search):
    (engine,) = (engine for engine in PEERS if engine.module == module)
    return open_variant(engine, Path("MODEL"), folder, dtype, 3, search)


def test_an_engine_is_converted_opened_and_run(packages, tmp_path):
    with closing(_open("ctranslate2", "int8", tmp_path, packages)) as process:
        assert _state(process) == "T"
        prefill, decode = process.run([2, 1], 4)
        assert prefill > 0 and isinstance(decode, float)
        with pytest.raises(ProcessError, match=r"^MemoryError: MODEL as int8 int8 3: \['one'\]$"):
            process.run([1], 9)


def test_an_engine_that_is_not_there_or_refuses_says_so(packages, tmp_path):
    with pytest.raises(ProcessError, match="^ValueError: no float64$"):
        _open("ctranslate2", "float64", tmp_path, packages)
    missing = "^ModuleNotFoundError: No module named 'ctranslate2'; tools/bench/cpu_peers.py says how to install it$"
    with pytest.raises(ProcessError, match=missing):
        _open("ctranslate2", "int8", tmp_path, None)


def test_a_stopped_variant_ends_with_the_suite(packages, tmp_path):
    suite = f"""
import os
from cpu_turns_test import _open
from pathlib import Path
print(_open("ctranslate2", "int8", Path({str(tmp_path)!r}), {str(packages)!r})._process.pid, flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", suite], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=False
    )
    try:
        variant = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    ended, _, _ = select.select([variant], [], [], 60)
    os.close(variant)
    if not ended:
        os.kill(int(done.stdout), signal.SIGKILL)
    assert ended
