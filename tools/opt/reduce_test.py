"""reduce as its user sees it."""

import os
import subprocess
from pathlib import Path

REDUCE = Path(__file__).parent / "reduce_without_models"

# A softmax over the sequence axis, which the kv-cache rewrite refuses, among other things.
GRAPH = """ffir 1
graph @g {
  symbol B [1, 8]
  symbol S [1, 16]
  metadata context_length = 16
  input %ids "input_ids" : i64[B, S]
  input %pos "position_ids" : i64[B, S]
  weight %w "w" : f32[32, 8]
  weight %p "p" : f32[16, 8]
  %0 = embedding(%w, %ids) {dtype = f32} : f32[B, S, 8]
  %1 = embedding(%p, %pos) {dtype = f32} : f32[B, S, 8]
  %2 = add(%0, %1) : f32[B, S, 8]
  %3 = reshape(%2) {shape = dims(B, S, 2, 4)} : f32[B, S, 2, 4]
  %4 = transpose(%3) {perm = [0, 2, 1, 3]} : f32[B, 2, S, 4]
  %5 = attention(%4, %4, %4) {causal = true, scale = 0.5} : f32[B, 2, S, 4]
  %6 = softmax(%5) {axis = 2} : f32[B, 2, S, 4] loc "odd (m.py:7)"
  %7 = transpose(%6) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 4]
  %8 = reshape(%7) {shape = dims(B, S, 8)} : f32[B, S, 8]
  %9 = silu(%8) : f32[B, S, 8]
  %10 = linear(%9, %w) : f32[B, S, 32]
  output "logits" %10
}
"""


def reduce(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REDUCE, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "BUILD_WORKING_DIRECTORY": str(cwd)},
        check=False,
    )


def test_keeps_what_the_message_needs(tmp_path: Path) -> None:
    (tmp_path / "in.ffir").write_text(GRAPH)
    done = reduce("in.ffir", "--message", "softmax along the sequence axis", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "softmax(" in done.stdout
    for gone in ("silu", "linear", "add(", '"p"', "loc"):
        assert gone not in done.stdout, done.stdout
    nodes = [line for line in done.stdout.splitlines() if line.strip().startswith("%")]
    assert len(nodes) <= 5, done.stdout  # ids to an embedding to heads to attention to softmax
    (tmp_path / "small.ffir").write_text(done.stdout)
    again = reduce("small.ffir", "--message", "softmax along the sequence axis", "-o", "out.ffir", cwd=tmp_path)
    assert again.stdout == ""
    assert (tmp_path / "out.ffir").read_text() == done.stdout


def test_says_so_if_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "in.ffir").write_text(GRAPH)
    for arguments in ((), ("--message", "no such text"), ("--passes=dce", "--message=x")):
        done = reduce("in.ffir", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert "\nreduce: the graph does not fail" in done.stderr, done.stderr
        assert done.stdout == ""
