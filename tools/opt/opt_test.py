"""opt as its user sees it: what it writes, what it reports, errors of one line."""

import os
import subprocess
from pathlib import Path

import pytest

OPT = Path(__file__).parent / "opt_without_models"

GRAPH = """ffir 1
graph @g {
  symbol B [1, 8]
  input %x "x" : f32[B, 4]
  weight %w "w" : f32[4, 4]
  %a = neg(%x) : f32[B, 4]
  %b = neg(%a) : f32[B, 4]
  %c = linear(%b, %w) : f32[B, 4] loc "proj (m.py:3)"
  output "y" %c
}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "in.ffir"
    path.write_text(GRAPH)
    return path


def opt(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs it as `bazel run` does for a user who stands in `cwd`."""
    return subprocess.run(
        [OPT, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "BUILD_WORKING_DIRECTORY": str(cwd)},
        check=False,
    )


def test_prints_the_rewritten_graph(graph: Path, tmp_path: Path) -> None:
    done = opt("in.ffir", "--passes", "canonicalize,dce", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "neg" not in done.stdout
    assert 'linear(%0, %1) : f32[B, 4] loc "proj (m.py:3)"' in done.stdout
    assert done.stderr == ""
    out = tmp_path / "out.ffir"
    assert opt(graph, "--passes=canonicalize,dce", "-o", out, cwd=tmp_path).stdout == ""
    assert out.read_text() == done.stdout
    assert (
        opt("in.ffir", "--passes=canonicalize,dce", "--skip-passes=canonicalize", cwd=tmp_path).stdout.count("neg") == 2
    )


def test_dumps_the_graph_around_each_pass(graph: Path, tmp_path: Path) -> None:
    assert opt(graph, "--passes=canonicalize,dce", "--dump-dir=d/e", cwd=tmp_path).returncode == 0
    dumps = sorted((tmp_path / "d" / "e").iterdir())
    assert [path.name for path in dumps] == ["00-input.ffir", "01-canonicalize.ffir", "02-dce.ffir"]
    assert [path.read_text().count("neg(") for path in dumps] == [2, 2, 0]


def test_explains(graph: Path, tmp_path: Path) -> None:
    done = opt(graph, "--explain", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert ["canonicalize", "identical", "1", "rewrites"] in [line.split()[1:5] for line in lines]
    assert any(line.strip().startswith("kv-cache refused: expected exactly the input ") for line in lines)


def test_verifies_and_bisects(graph: Path, tmp_path: Path) -> None:
    done = opt(graph, "--passes=canonicalize,dce", "--verify-each", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "proved in" in done.stderr
    assert "1 rewritten regions" in done.stderr
    assert "whole graph compared" in done.stderr
    done = opt(graph, "--passes=canonicalize,dce", "--bisect", cwd=tmp_path)
    assert done.returncode == 0
    assert "every pass keeps its relation" in done.stderr


def test_lists_passes_and_flags(tmp_path: Path) -> None:
    listed = opt("--list-passes", cwd=tmp_path)
    assert listed.returncode == 0
    assert ["kv-cache", "restructured"] in [line.split() for line in listed.stdout.splitlines()]
    assert ",kv-cache," in listed.stdout.partition("default: --passes ")[2]
    shown = opt("--help", cwd=tmp_path).stdout
    for flag in (
        "passes",
        "skip_passes",
        "options",
        "o",
        "dump_dir",
        "list_passes",
        "explain",
        "verify_each",
        "bisect",
    ):
        assert f"--{flag} (" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "opt: give one graph or model"),
        (("none.ffir",), "opt: cannot read none.ffir"),
        (("bad.ffir",), "opt: bad.ffir:6:8: there is no such op"),
        (("bad.json",), "opt: bad.json: graph.json: 2:1: not valid JSON"),
        (("in.ffir", "--passes=dce,canonicalise"), 'did you mean "canonicalize"?'),
        (("in.ffir", "--skip-passes=kvcache"), 'did you mean "kv-cache"?'),
        (("in.ffir", "--options=dtype"), 'expected name=value, got "dtype"'),
        (("in.ffir", "-o", "no/such/folder"), "opt: cannot write no/such/folder"),
        (("some-model",), "no .ffir or .json file"),
    ],
)
def test_errors_are_one_line(graph: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert graph.exists()
    (tmp_path / "bad.ffir").write_text(GRAPH.replace("= neg(", "= negg(", 1))
    (tmp_path / "bad.json").write_text("{\n")
    done = opt(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_roofline(graph: Path, tmp_path: Path) -> None:
    done = opt(graph, "--passes=canonicalize,dce", "--roofline", "--sizes=B=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("NVIDIA H200 SXM: 4300 GB/s")
    rows = [line.split() for line in done.stderr.splitlines()]
    # 8 rows in and out, and the weight, of 4 floats a row.
    assert ["linear", "1", f"{(8 + 8 + 4) * 16 / 1e6:.4f}"] in [row[:3] for row in rows]
    for wrong, message in [
        ("--device=h201", 'opt: no device is called "h201"; devices: a100, h100, h200, cpu, or a .json file'),
        ("--sizes=T=3", 'opt: --sizes: the graph has no symbol "T"'),
        ("--sizes=B", 'opt: --sizes: expected name=number, got "B"'),
    ]:
        done = opt(graph, "--passes=dce", "--roofline", wrong, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (1, message + "\n")


def test_arena(tmp_path: Path) -> None:
    (tmp_path / "step.ffir").write_text("""ffir 1
graph @step {
  symbol T [1, 64]
  symbol L [1, 64]
  metadata context_length = 64
  input %ids "token_ids" : i32[T]
  input %rows "logit_rows" : i32[L]
  weight %w "w" : f32[40, 80]
  %e = embedding(%w, %ids) {dtype = f32} : f32[T, 80]
  %g = gather_rows(%e, %rows) : f32[L, 80]
  %x = exp(%g) : f32[L, 80]
  %y = linear(%x, %w) : f32[L, 40]
  output "logits" %y
}
""")
    done = opt("step.ffir", "--passes=dce", "--arena", "--options=max_tokens=3,max_logit_rows=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stderr.splitlines()]
    assert rows[0] == ["4", "steps,", "2", "buffers"], "exp writes in place of what was gathered"
    # T and L rows of 80 floats, the first rounded up to 256 bytes where something lies behind it.
    assert [row[:3] for row in rows[2:]] == [["1", "640", "1024"], ["2", "1280", "1536"], ["3", "1600", "1792"]]
    assert rows[2][4] == "640"
