import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flashflow import cache as cache_module
from flashflow.cache import EngineCache, engine_key, user_cache_dir
from flashflow.errors import DataLossError, FailedPreconditionError, InvalidArgumentError

WHOLE = b"a whole engine"


def open_engine(path: Path) -> bytes:
    content = path.read_bytes()
    if content != WHOLE:
        raise DataLossError("not whole")
    return content


class Builder:
    def __init__(self, content: bytes = WHOLE) -> None:
        self.content = content
        self.calls = 0

    def __call__(self, path: Path) -> None:
        self.calls += 1
        path.write_bytes(self.content)


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache")


def test_second_call_opens_what_the_first_built(cache):
    build = Builder()
    for _ in range(2):
        assert cache.get_or_build("k", open_engine, build, {"model": "m"}) == WHOLE
    assert build.calls == 1
    (entry,) = cache.entries()
    assert entry.description == {"model": "m"}
    assert entry.size_bytes == len(WHOLE)
    assert {p.name for p in cache.engines.iterdir()} == {"k.ff", "k.json", "k.lock"}


def test_damaged_engine_is_built_anew_with_a_warning(cache, caplog):
    build = Builder()
    cache.get_or_build("k", open_engine, build, {})
    (cache.engines / "k.ff").write_bytes(WHOLE[:-1])
    with caplog.at_level(logging.WARNING, logger="flashflow"):
        assert cache.get_or_build("k", open_engine, build, {}) == WHOLE
    assert build.calls == 2
    assert "damaged" in caplog.text and "k.ff" in caplog.text


def test_error_that_is_not_the_files_fault_is_raised_and_the_file_kept(cache):
    cache.get_or_build("k", open_engine, Builder(), {})

    def no_device(path):
        raise FailedPreconditionError("no CUDA")

    build = Builder()
    with pytest.raises(FailedPreconditionError, match="no CUDA"):
        cache.get_or_build("k", no_device, build, {})
    assert build.calls == 0 and (cache.engines / "k.ff").exists()


def test_failed_build_leaves_nothing_that_could_be_opened(cache):
    def build(path):
        path.write_bytes(b"half")
        raise InvalidArgumentError("no such op")

    with pytest.raises(InvalidArgumentError, match="no such op"):
        cache.get_or_build("k", open_engine, build, {})
    assert not cache.entries()
    assert [p.name for p in cache.engines.iterdir()] == ["k.lock"]


def test_remains_of_a_killed_build_do_not_matter(cache):
    part = cache.engines / "k.part"
    part.mkdir(parents=True)
    (part / "engine.ff").write_bytes(b"half")
    assert cache.get_or_build("k", open_engine, Builder(), {}) == WHOLE
    assert not part.exists()


def test_engine_that_is_damaged_right_after_its_build_is_an_error_not_a_loop(cache):
    build = Builder(b"bad")
    with pytest.raises(DataLossError):
        cache.get_or_build("k", open_engine, build, {})
    assert build.calls == 1


def test_two_at_once_build_once(cache):
    building, waiting = threading.Event(), threading.Event()
    build = Builder()

    def slow_build(path):
        building.set()
        assert waiting.wait(60), "the second one never waited"
        build(path)

    results = []
    first = threading.Thread(target=lambda: results.append(cache.get_or_build("k", open_engine, slow_build, {})))
    first.start()
    assert building.wait(60)
    results.append(cache.get_or_build("k", open_engine, build, {}, on_wait=waiting.set))
    first.join()
    assert results == [WHOLE, WHOLE] and build.calls == 1


def test_lock_holds_between_processes(cache):
    code = (
        "import sys; from flashflow.cache import EngineCache\n"
        "def build(path): print('building', flush=True); sys.stdin.read(); path.write_bytes(b'a whole engine')\n"
        "EngineCache(sys.argv[1]).get_or_build('k', lambda path: 1, build, {})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(cache.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == b"building\n"
        build = Builder()
        assert cache.get_or_build("k", open_engine, build, {}, on_wait=other.stdin.close) == WHOLE
        assert build.calls == 0
    assert other.returncode == 0


def test_lock_file_deleted_while_waiting_is_taken_anew(cache):
    """As when another process clears the cache; holding a deleted file's lock would guard nothing."""
    waiting = threading.Event()
    found = []

    def wait():
        with cache._lock("k", waiting.set):
            found.append((cache.engines / "k.lock").exists())

    waiter = threading.Thread(target=wait)
    with cache._lock("k", lambda: None):
        waiter.start()
        assert waiting.wait(60)
        (cache.engines / "k.lock").unlink()
    waiter.join(60)
    assert found == [True]


def test_least_recently_used_goes_first_and_the_new_one_stays(tmp_path):
    cache = EngineCache(tmp_path, max_bytes=2 * len(WHOLE))
    for age, key in ((300, "old"), (200, "used"), (100, "new")):
        cache.get_or_build(key, open_engine, Builder(), {})
        os.utime(cache.engines / f"{key}.ff", (0, 1_000_000 - age))
        if key == "used":
            os.utime(cache.engines / "old.ff", (0, 1_000_000 - 300))
    assert {e.path.stem for e in cache.entries()} == {"used", "new"}
    cache.get_or_build("used", open_engine, Builder(), {})  # a hit counts as a use
    cache.get_or_build("newest", open_engine, Builder(), {})
    assert [e.path.stem for e in cache.entries()][-1] == "used"
    tiny = EngineCache(tmp_path, max_bytes=0)
    tiny.get_or_build("last", open_engine, Builder(), {})
    assert [e.path.stem for e in tiny.entries()] == ["last"]


def test_clear_deletes_all_but_what_is_being_built(cache):
    for key in ("a", "b"):
        cache.get_or_build(key, open_engine, Builder(), {})
    with cache._lock("a", lambda: None):
        assert [e.path.stem for e in cache.clear()] == ["b"]
    assert [e.path.stem for e in cache.entries()] == ["a"]


def test_unwritable_folder_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPreconditionError, match="cannot be written") as caught:
        EngineCache(tmp_path / "file").get_or_build("k", open_engine, Builder(), {})
    assert "cache_dir" in caught.value.hint


def test_file_hash_follows_the_content(cache, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    first = cache.file_sha256(path)
    stat = path.stat()
    path.write_bytes(b"two")  # same size, and within the clock's grain:
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.file_sha256(path) != first


def test_settled_file_is_hashed_once(cache, tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    first = cache.file_sha256(path)
    monkeypatch.setattr(cache_module.hashlib, "sha256", None)
    assert cache.file_sha256(path) == first
    os.utime(path, (2, 2))
    with pytest.raises(TypeError):
        cache.file_sha256(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"%s": 1}', "\xff", "[" * 100_000])
def test_damaged_list_of_hashes_is_ignored(cache, tmp_path, text):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    first = cache.file_sha256(path)
    (cache.root / "hashes.json").write_text(text.replace("%s", str(path)))
    assert cache.file_sha256(path) == first
    assert str(path) in json.loads((cache.root / "hashes.json").read_text())


def test_key_depends_on_model_options_and_code(monkeypatch):
    keys = {
        engine_key({"m": "a"}, {"dtype": "f32"}),
        engine_key({"m": "b"}, {"dtype": "f32"}),
        engine_key({"m": "a"}, {"dtype": "bf16"}),
    }
    monkeypatch.setattr(cache_module, "_code_hash", lambda: "other")
    keys.add(engine_key({"m": "a"}, {"dtype": "f32"}))
    assert len(keys) == 4


def test_cache_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_dir() == tmp_path / "flashflow"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_cache_dir() == Path("/home/someone/.cache/flashflow")
