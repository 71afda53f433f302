"""The suite with programs that are scripts: what it asks, how it takes turns, what it writes, how it fails."""

import json
import sys

import pytest
from tools.bench import engine_suite
from tools.bench.decoder_shape import SHAPES
from tools.bench.engine_page import MODE, page, tables
from tools.bench.engine_process import EngineProcess
from tools.bench.engine_suite import Options, Row, measure_row, rows, run
from tools.bench.json_process import ProcessError
from tools.bench.kernel_results import DeviceSpec, Report, Result, Variant, summarize

RANDOM_ENGINE = """
import sys
open(sys.argv[2], "w").write(open(sys.argv[1]).read() + sys.argv[3])
"""
TIME_ENGINE = """
import json, sys
words = sys.argv[1:]
log = open({log!r}, "a")
log.write(" ".join(words[1:]) + "\\n"); log.flush()
if "bad" in open(words[0]).read():
    sys.exit("the engine is broken\\nno plan fits")
print(json.dumps(dict(library_ms=50.0, device_ms=200.0, open_ms=100.0)), flush=True)
for line in sys.stdin:
    prompt, tokens = line.split()
    log.write(line); log.flush()
    slow = 10 if "--batch_invariant" in words else -5 if "--dtype=int8" in open(words[0]).read() else 0
    print(json.dumps(dict(prefill_ms=float(prompt), decode_us=float(tokens) + slow)), flush=True)
"""


@pytest.fixture
def programs(tmp_path):
    folder = tmp_path / "runtime/api"
    folder.mkdir(parents=True)
    for name, text in (("random_engine", RANDOM_ENGINE), ("time_engine", TIME_ENGINE)):
        (folder / name).write_text(f"#!{sys.executable}\n" + text.replace("{log!r}", repr(str(tmp_path / "log"))))
        (folder / name).chmod(0o755)
    for model in SHAPES:
        (tmp_path / f"{model}.json").write_text("graph")
    return folder


def options(programs, **changes):
    given = {"device": "cpu", "programs": programs, "graphs": programs.parents[1], "repeats": 2, **changes}
    return Options(**{"models": ["gpt2-124m"], "batches": [1, 8], "contexts": [512], **given})


def test_rows_are_those_named():
    found = rows(Options(models=["gpt2-xl"], batches=[8], contexts=[128, 512], prefills=[(1, 64)]))
    assert [(row.suite, row.title) for row in found] == [
        ("decode", "batch 8, context 128"),
        ("decode", "batch 8, context 512"),
        ("prefill", "batch 1, prompts of 64"),
    ]
    with pytest.raises(ValueError, match="no model 'gpt5': expected gpt2-124m, "):
        rows(Options(models=["gpt5"]))
    with pytest.raises(ValueError, match="no suite 'train'"):
        rows(Options(suites=["train"]))


def test_a_run_asks_our_engines_in_turn(programs, tmp_path):
    report = run(options(programs, suites=["decode", "prefill"], prefills=[(8, 100)]), lambda line: None)
    found = {(r.kernel, r.shape): {n: v.modes[MODE].us for n, v in r.variants.items()} for r in report.results}
    assert found == {
        ("decode, gpt2-124m", "batch 1, context 512"): {"ours": 33, "int8": 28, "invariant": 43},
        ("decode, gpt2-124m", "batch 8, context 512"): {"ours": 33, "int8": 28, "invariant": 43},
        ("prefill, gpt2-124m", "batch 8, prompts of 100"): {"ours": 1e5, "int8": 1e5, "invariant": 1e5},
    }
    asked = (tmp_path / "log").read_text().splitlines()
    assert asked[:3] == [
        "--device=cpu --batch=1 --interactive",
        "--device=cpu --batch=1 --interactive",
        "--device=cpu --batch=1 --interactive --batch_invariant",
    ]
    assert asked[3:12] == ["496 33"] * 9, "a warm-up and two rounds of each"
    assert asked.count("100 1") == 18, "each twice, the second counts"


def test_int8_may_be_left_out_and_may_be_all_that_runs(programs):
    for changes in ({"without": ["int8"]}, {"dtype": "int8"}, {"dtype": "f32"}):
        (found,) = run(options(programs, suites=["decode"], batches=[1], **changes), lambda line: None).results
        assert set(found.variants) == {"ours", "invariant"} and found.dtype == changes.get("dtype", "bf16")


def test_weights_of_int8_are_a_byte():
    shape = SHAPES["gpt2-124m"]
    weights = shape.n_layers * shape.layer_parameters + shape.vocab_size * shape.hidden_size
    for cost in (shape.decode_cost, shape.prefill_cost):
        assert cost(8, 512, 2)[1] - cost(8, 512, 2, 1)[1] == weights and cost(8, 512, 2)[0] == cost(8, 512, 2, 1)[0]


def test_engines_are_kept_where_a_folder_is_named(programs, tmp_path):
    (tmp_path / "gpt2-124m.ff").write_text("made before")
    run(options(programs, engines=tmp_path, batches=[1]), lambda line: None)
    assert (tmp_path / "gpt2-124m.ff").read_text() == "made before"


def test_what_was_measured_is_kept_as_it_comes(programs):
    kept = []
    run(options(programs, suites=["decode"]), lambda line: None, lambda report: kept.append(len(report.results)))
    assert kept == [1, 2]


def test_cold_start_has_a_line_for_each_part(programs):
    report = run(options(programs, suites=["cold"], repeats=1), lambda line: None)
    whole, _, library, device, opening, _ = report.results
    assert library.best("ours", MODE) == ("ours", 50_000)
    assert device.best("ours", MODE) == ("ours", 200_000) and opening.best("ours", MODE) == ("ours", 100_000)
    assert set(whole.variants) == {"ours", "dropped"}
    assert f"| {'device: context':28} | 200.0 " in tables(report.results)


def test_an_engine_that_fails_is_named(programs, tmp_path):
    with pytest.raises(ProcessError, match="^no plan fits$"):
        (tmp_path / "gpt2-124m.json").write_text("bad")
        run(options(programs), lambda line: None)
    (programs / "time_engine").write_text("#!/bin/sh\nexec tail -f /dev/null")
    with pytest.raises(ProcessError, match="gave no answer in 0 s"):
        EngineProcess(programs, tmp_path / "x", "cpu", 1, timeout=0.1)


def test_variants_take_turns_and_the_first_round_does_not_count():
    said = []

    def turn(name, values):
        def call():
            said.append(name)
            return values.pop(0)

        return call

    spec = DeviceSpec("X", 4300.0, {"bf16": 790.0})
    turns = {"ours": ("ours", turn("a", [9.0, 1.0, 3.0])), "eager": ("peer", turn("b", [9.0, 8.0, 8.0]))}
    result = measure_row(Row("decode", SHAPES["gpt2-124m"], 1, 512), turns, spec, "bf16", 2)
    assert said == ["a", "b"] * 3
    assert result.best("ours", MODE) == ("ours", 2.0) and result.ratio(MODE) == 4.0
    assert result.floor_us == pytest.approx(61.9, abs=0.1) and result.bound == "memory"


def result(kernel, shape, **us):
    roles = {"ours": "ours", "int8": "ours", "invariant": "ours"}
    variants = {n: Variant(roles.get(n, "peer"), {MODE: summarize([t])}) for n, t in us.items()}
    return Result(kernel, shape, "bf16", 1e9, 1e7, 100.0, "memory", variants)


def test_tables_and_page():
    results = [
        result(
            "decode, m", "batch 8, context 512", ours=400.0, int8=300.0, invariant=500.0, eager=3000.0, inductor=600.0
        ),
        result("prefill, m", "batch 8, prompts of 1016", ours=4000.0),
    ]
    text = tables(results)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "batch 8" in line]
    assert cells[0][1:] == [
        "400",
        "20,000",
        "300 (0.75)",
        "500 (1.25)",
        "inductor 600",
        "1.50",
        "100",
        "25%",
        "eager 3,000",
    ]
    assert cells[1][1:5] == ["4,000", "2,032,000", "-", "-"] and cells[1][6] == "-"
    made = page(Report({"device": "NVIDIA H200", "spec": "H200 SXM"}, results))
    assert text in made and "| device | NVIDIA H200 |" in made and "median of 1 rounds" in made


def test_command_line(programs, tmp_path, capsys):
    report = Report({"device": "X"}, [result("decode, m", "batch 1, context 512", ours=400.0, eager=800.0)])
    (tmp_path / "r.json").write_text(report.to_json())
    given = ["--from-json", tmp_path / "r.json", "--markdown", tmp_path / "p.md", "--charts", tmp_path / "c"]
    assert engine_suite.main([str(word) for word in given]) == 0
    assert "| batch 1, context 512 | 400 " in (tmp_path / "p.md").read_text()
    assert (tmp_path / "c/engine.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    words = ["--device", "cpu", "--programs", str(programs), "--graphs", str(tmp_path), "--models", "gpt2-124m"]
    words += ["--suite", "prefill", "--prefills", "2x16", "--repeats", "1", "--json", str(tmp_path / "out.json")]
    assert engine_suite.main(words) == 0
    (found,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert found["shape"] == "batch 2, prompts of 16"
    capsys.readouterr()
    assert engine_suite.main(["--device", "cpu", "--programs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: there is no random_engine in {tmp_path}\n"
    with pytest.raises(SystemExit):
        engine_suite.main(["--batches", "0"])
