"""viz as its user sees it: DOT and pages that hold both graphs, hostile names, errors of one line."""

import html.parser
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

VIZ = Path(__file__).parent / "viz_without_models"

# Four layers, of which the first three are alike; a name that breaks out of what is not quoted.
EVIL = r"</script><img src=x onerror=\"alert(1)\">\\n"


def graph_text() -> str:
    weights = "".join(f'  weight %w{i} "w{i}" : f32[4, 4]\n' for i in range(4))
    layers = "".join(
        f'  %a{i} = neg(%{"start" if i == 0 else f"b{i - 1}"}) : f32[B, 4] loc "layers.{i}.act (m.py:3)"\n'
        f'  %b{i} = linear(%a{i}, %w{i}) : f32[B, 4] loc "layers.{i}.proj (m.py:4)"\n'
        for i in range(4)
    )
    return (
        f'ffir 1\ngraph @g {{\n  symbol B [1, 8]\n  input %x "{EVIL}" : f32[B, 4]\n{weights}'
        f'  %dead = exp(%x) : f32[B, 4] loc "{EVIL}"\n  %n = neg(%x) : f32[B, 4]\n  %start = neg(%n) : f32[B, 4]\n'
        f'{layers}  %e = exp(%b3) : f32[B, 4] loc "layers.3.last (m.py:5)"\n  output "y" %e\n}}\n'
    )


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "in.ffir"
    path.write_text(graph_text())
    return path


def viz(*arguments: str | Path, cwd: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs it as `bazel run` does for a user who stands in `cwd`."""
    return subprocess.run(
        [VIZ, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "BUILD_WORKING_DIRECTORY": str(cwd), "PATH": path or os.environ["PATH"]},
        check=False,
    )


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: its elements, the addresses that it names, the data."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.data = ""
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]
        self._in_data = ("id", "picture") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data


def picture_of(path: Path) -> dict[str, Any]:
    page = Page()
    page.feed(path.read_text())
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert page.addresses == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text()), "it opens without a network"
    return dict(json.loads(page.data))


def test_a_page_holds_both_graphs_and_what_became_of_what(graph: Path, tmp_path: Path) -> None:
    done = viz(graph, "--passes=canonicalize,dce", "-o", "out.html", "--device=h100", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    picture = picture_of(tmp_path / "out.html")
    before, after = picture["before"]["nodes"], picture["after"]["nodes"]
    assert [node["op"] for node in before] == ["exp", "neg", "neg", *["neg", "linear"] * 4, "exp"]
    assert [node["op"] for node in after] == [*["neg", "linear"] * 4, "exp"]
    assert before[0]["successor"] == -1, "dead"
    assert before[0]["loc"] == EVIL.replace('\\"', '"').replace("\\\\", "\\")
    assert [after[node["successor"]]["op"] for node in before[3:]] == [*["neg", "linear"] * 4, "exp"]
    assert picture["runs"] == [[0, 2], [3, 3]]
    assert after[1]["sources"] == ["weight w0 : f32[4, 4]"]
    assert after[1]["operands"] == [0]
    assert after[1]["bytes"] == 16 * 4 + 2 * 4 * 4
    assert sum(node["share"] for node in after) == pytest.approx(1)
    assert picture["device"].startswith("NVIDIA H100")


def test_dot_shows_one_of_layers_that_are_alike(graph: Path, tmp_path: Path) -> None:
    done = viz(graph, "--passes=canonicalize,dce", "-o", "out.dot", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    dot = (tmp_path / "out.dot").read_text()
    assert dot.count('label="layers 0 to 2 are alike: x3"') == 2, "before and after"
    assert dot.count('label="layer 3"') == 2
    nodes = re.findall(r"^\s*([ab]\d+) \[label=", dot, re.MULTILINE)
    assert len([node for node in nodes if node[0] == "a"]) == 2 + 3
    assert len([node for node in nodes if node[0] == "b"]) == 3 + 2 + 3
    assert "a1 -> a0 [style=dashed" in dot, "from one layer to the next"
    assert "a0 -> a1;" in dot
    assert re.search(r'label="exp\\nf32\[B, 4\].*style="rounded,dashed"', dot), "what does nothing any more"
    assert r"onerror=\"alert(1)\">\\n" in dot, "quotes and backslashes mean nothing"
    # Every quoted string ends where it should: what is left without them has no quote and no name.
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', "", dot)
    assert '"' not in rest and "script" not in rest


def test_pictures_need_graphviz(graph: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    done = viz(graph, "--passes=dce", "-o", "out.svg", cwd=tmp_path, path=str(tools))
    assert done.returncode == 1
    assert "viz: Graphviz's program `dot` cannot be run" in done.stderr
    assert "apt install graphviz" in done.stderr and ".html" in done.stderr
    fake = tools / "dot"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = -Tsvg ] && [ "$2" = -o ] && while read -r line; do echo "$line"; done < "$4" > "$3"\n'
    )
    fake.chmod(0o755)
    assert viz(graph, "--passes=dce", "-o", "out.svg", cwd=tmp_path, path=str(tools)).returncode == 0
    assert (tmp_path / "out.svg").read_text().startswith("digraph picture {")
    fake.write_text("#!/bin/sh\necho cannot draw >&2\nexit 3\n")
    done = viz(graph, "--passes=dce", "-o", "out.png", cwd=tmp_path, path=str(tools))
    assert (done.returncode, done.stderr) == (1, "viz: dot failed: cannot draw\n\n")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "out.html"), "viz: give one graph or model"),
        (("in.ffir",), 'viz: -o: expected a file that ends in .html, .svg, .png or .dot, got ""'),
        (("in.ffir", "-o", "out.pdf"), 'got "out.pdf"'),
        (("none.ffir", "-o", "out.html"), "viz: cannot read none.ffir"),
        (("in.ffir", "-o", "no/such/out.html"), "viz: cannot write no/such/out.html"),
        (("in.ffir", "-o", "out.html", "--passes=kvcache"), 'did you mean "kv-cache"?'),
        (("in.ffir", "-o", "out.html", "--device=h201"), 'no device is called "h201"'),
        (("in.ffir", "-o", "out.html", "--tokens=0"), "expected 1 <= --tokens <= --context"),
        (("in.ffir", "-o", "out.html", "--tokens=600"), "got 600 and 512"),
    ],
)
def test_errors_are_one_line(graph: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert graph.exists()
    done = viz(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
