import io
import tarfile

import pytest
from tools.gpu_bundle import make_bundle


@pytest.fixture
def runfiles(tmp_path, monkeypatch):
    for path, content in {
        make_bundle.RUNNER: b"print()",
        "kernels/bench/case.py": b"x = 1",
        "kernels/cuda/a_test_program": b"\x7fELF1234",
        "kernels/triton/a.cubin": b"cubin",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SOURCES = [make_bundle.RUNNER, "kernels/triton/a.cubin", "kernels/cuda/a_test_program", "kernels/bench/case.py"]


def test_files_keep_their_paths_and_sources_are_packages(runfiles):
    files = make_bundle.bundle_files(SOURCES, {"A": "b c"}, "1234abc")
    assert sorted(files) == [
        "COMMIT",
        "README",
        "environment.json",
        "kernels/__init__.py",
        "kernels/bench/__init__.py",
        "kernels/bench/case.py",
        "kernels/cuda/a_test_program",
        "kernels/triton/a.cubin",
        "run.py",
    ]
    assert files["COMMIT"] == b"1234abc\n" and b"commit 1234abc" in files["README"]


def test_archive(runfiles, tmp_path):
    files = make_bundle.bundle_files(SOURCES, {}, "x")
    size = make_bundle.write(tmp_path / "a.tar.gz", files)
    packed = (tmp_path / "a.tar.gz").read_bytes()
    assert size == len(packed)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        modes = {entry.name: entry.mode for entry in tar}
        assert all(entry.isreg() and entry.mtime == 0 and entry.uid == 0 for entry in tar)
    assert modes["flashflow-gpu/kernels/cuda/a_test_program"] == 0o755
    assert modes["flashflow-gpu/kernels/triton/a.cubin"] == 0o644
    make_bundle.write(tmp_path / "b.tar.gz", dict(reversed(files.items())))
    assert (tmp_path / "b.tar.gz").read_bytes() == packed


@pytest.mark.parametrize("path", ["../external/x", "/usr/lib/x", "kernels/../../x"])
def test_a_path_that_leaves_the_bundle_is_refused(tmp_path, path):
    with pytest.raises(ValueError, match="not below the repository"):
        make_bundle.write(tmp_path / "a.tar.gz", {path: b"x"})


def test_a_bundle_that_would_not_travel_is_refused(runfiles, tmp_path, monkeypatch):
    monkeypatch.setattr(make_bundle, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="more than 0"):
        make_bundle.write(tmp_path / "a.tar.gz", make_bundle.bundle_files(SOURCES, {}, "x"))
    assert not (tmp_path / "a.tar.gz").exists()


def test_command_line(runfiles, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path / "kernels"))
    assert make_bundle.main([f"--files={' '.join(SOURCES)}", "--environment=A=b=c d", "out.tar.gz"]) == 0
    with tarfile.open(tmp_path / "kernels/out.tar.gz") as tar:
        assert tar.extractfile("flashflow-gpu/environment.json").read() == b'{\n "A": "b=c d"\n}'
    assert capsys.readouterr().out.endswith("MiB\n")
    assert make_bundle.main(["--files=nowhere.py", "out.tar.gz"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
