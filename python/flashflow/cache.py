"""Built engines in the user's cache folder: made once, found again by what they were made from.

    $XDG_CACHE_HOME/flashflow/engines/      (~/.cache where that is unset)
        KEY.ff            the engine
        KEY.json          what it was made from, for people
        KEY.lock          held by the process that builds it
        KEY.part/         where it is being built
    $XDG_CACHE_HOME/flashflow/hashes.json   content hashes of model files, by path, size and time of change

An engine appears by one rename, so that a reader sees a whole file or none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from flashflow.errors import (
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnsupportedError,
)
from flashflow.log import logger

DEFAULT_MAX_BYTES = 32 << 30
_MAX_HASHES = 1024
_SETTLED_S = 2.0  # a file changed less than this ago may change again within its clock's grain

T = TypeVar("T")


def user_cache_dir() -> Path:
    """The user's cache folder of FlashFlow. It need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is invalid and ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "flashflow"


@dataclass(frozen=True)
class CacheEntry:
    """One built engine. `description` is what it was made from, empty where that was lost."""

    path: Path
    size_bytes: int
    last_used: float  # seconds since the epoch
    description: dict[str, Any] = field(default_factory=dict)


class EngineCache:
    """The engines under one folder; any number of processes may use it at once.

    Args:
        root: the folder, made when first written to. None is the user's own.
        max_bytes: engines used longest ago are deleted once all together are larger.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.root = user_cache_dir() if root is None else Path(root).expanduser().absolute()
        self.engines = self.root / "engines"
        self.max_bytes = max_bytes

    def get_or_build(
        self,
        key: str,
        open_engine: Callable[[Path], T],
        build: Callable[[Path], None],
        description: Mapping[str, Any],
        on_wait: Callable[[], None] = lambda: None,
    ) -> T:
        """Opens the engine of this key, which is built first where there is none or a damaged one.

        Args:
            key: from `engine_key`.
            open_engine: opens the file; DataLossError, UnsupportedError or NotFoundError mean that it is no good.
            build: writes the engine to the path that it gets.
            description: JSON values, shown by `flashflow cache list`.
            on_wait: called once before waiting for another process that builds the same engine.

        Raises:
            FailedPreconditionError: the folder cannot be written.
            ResourceExhaustedError: the disk is full.
        """
        path = self.engines / f"{key}.ff"
        if path.exists():
            with contextlib.suppress(DataLossError, UnsupportedError, NotFoundError):
                return self._open(path, open_engine)
        with self._lock(key, on_wait):
            if path.exists():  # another process made it meanwhile, or it is damaged
                try:
                    return self._open(path, open_engine)
                except (DataLossError, UnsupportedError, NotFoundError) as error:
                    logger.warning("the cached engine %s is damaged and is built anew: %s", path, error)
            part = self.engines / f"{key}.part"
            shutil.rmtree(part, ignore_errors=True)  # of a build that was killed
            try:
                with self._filesystem_errors():
                    part.mkdir()
                build(part / "engine.ff")
                with self._filesystem_errors():
                    _write_json(self.engines / f"{key}.json", dict(description))
                    os.replace(part / "engine.ff", path)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            opened = self._open(path, open_engine)
        self._evict(keep=path)
        return opened

    def entries(self) -> list[CacheEntry]:
        """The engines, the one used last first."""
        found = []
        for path in self.engines.glob("*.ff"):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                stat = path.stat()
                found.append(CacheEntry(path, stat.st_size, stat.st_mtime, _read_json(path.with_suffix(".json"))))
        return sorted(found, key=lambda entry: (-entry.last_used, entry.path))

    def clear(self) -> list[CacheEntry]:
        """Deletes the engines, except those being built at this moment; returns what was deleted."""
        return [entry for entry in self.entries() if self._delete(entry)]

    def file_sha256(self, path: Path) -> str:
        """SHA-256 of a file's content, in hex; remembered by path, size and time of change."""
        path = path.resolve()
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev]
        memo = self.root / "hashes.json"
        known = _read_json(memo).get(str(path))
        if isinstance(known, list) and known[:-1] == stamp and isinstance(known[-1], str):
            return known[-1]
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if time.time() - stat.st_mtime > _SETTLED_S:
            hashes = _read_json(memo)
            hashes.pop(str(path), None)
            hashes[str(path)] = [*stamp, digest.hexdigest()]
            with contextlib.suppress(OSError):
                self.root.mkdir(parents=True, exist_ok=True)
                _write_json(memo, dict(list(hashes.items())[-_MAX_HASHES:]))
        return digest.hexdigest()

    def _open(self, path: Path, open_engine: Callable[[Path], T]) -> T:
        opened = open_engine(path)
        with contextlib.suppress(OSError):  # a read-only cache still serves
            os.utime(path)
        return opened

    @contextlib.contextmanager
    def _lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        path = self.engines / f"{key}.lock"
        while True:
            with self._filesystem_errors():
                self.engines.mkdir(parents=True, exist_ok=True)
                file = open(path, "w")  # noqa: SIM115 (closed below)
            with file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    on_wait()
                    fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    current = os.path.samestat(os.fstat(file.fileno()), path.stat())
                except FileNotFoundError:
                    current = False
                if current:
                    yield  # closing the file unlocks it
                    return
            # `clear` deleted the file before the lock was had: another process may hold the one that is there now.

    @contextlib.contextmanager
    def _filesystem_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhaustedError(
                    f"no space left for an engine under {self.engines}",
                    hint="make room, or name another folder with --cache-dir (cache_dir=)",
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise FailedPreconditionError(
                    f"the cache folder {self.engines} cannot be written: {error.strerror}",
                    hint="name another folder with --cache-dir (cache_dir=)",
                ) from error
            raise

    def _evict(self, keep: Path) -> None:
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        for entry in reversed(entries):
            if total <= self.max_bytes:
                break
            if entry.path != keep and self._delete(entry):
                total -= entry.size_bytes
                logger.info("deleted %s: the cache is limited to %d bytes", entry.path, self.max_bytes)

    def _delete(self, entry: CacheEntry) -> bool:
        lock = entry.path.with_suffix(".lock")
        try:
            with open(lock, "w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in (entry.path, entry.path.with_suffix(".json"), lock):
                    path.unlink(missing_ok=True)
        except OSError as error:
            logger.info("%s is not deleted: %s", entry.path, error)
            return False
        return True


def engine_key(model_hashes: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """The name of the engine made from these files by this build of FlashFlow.

    Args:
        model_hashes: content hashes of the model's files, by file name.
        options: what the engine was asked to be (JSON values).
    """
    parts = {"code": _code_hash(), "model": dict(model_hashes), "options": dict(options)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _code_hash() -> str:
    """Of everything that turns a model into an engine: the compiler, the kernel catalog, models, loaders, export."""
    package = Path(__file__).parent
    files = [*package.glob("_core*.so")]
    for folder in ("frontend", "loaders", "models", "tokenizers"):
        files += [path for path in (package / folder).glob("*.py") if not path.name.endswith("_test.py")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(package)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    descriptor, part = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
