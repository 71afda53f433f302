import os
import shutil
import subprocess
import sys

import pytest

from flashflow.errors import InvalidArgumentError, NotFoundError
from flashflow.loaders.checkpoint import save_checkpoint
from flashflow.loaders.resolve import resolve
from flashflow.models.build import build_model
from flashflow.models.config import GptSmallConfig

CONFIG = GptSmallConfig(vocab_size=61, context_length=19, hidden_size=24, n_layers=1, n_heads=4, mlp_size=40)


@pytest.fixture
def folder(tmp_path):
    weights = {name: value.zero_() for name, value in build_model(CONFIG).state_dict().items()}
    save_checkpoint(tmp_path / "run", CONFIG, weights, b"{}")
    return tmp_path / "run"


def test_known_name():
    source = resolve("smollm2-135m")
    assert (source.name, source.kind) == ("smollm2-135m", "gguf")
    assert source.files() == [source.path]


def test_finding_a_file_imports_no_loader():
    code = """if True:
        import sys
        from flashflow.loaders.resolve import resolve
        resolve("smollm2-135m").fingerprint()
        heavy = {"gguf", "numpy", "safetensors", "tokenizers", "torch"} & set(sys.modules)
        assert not heavy, heavy"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_paths(folder, tmp_path):
    source = resolve(folder)
    assert (source.name, source.kind) == ("run", "checkpoint")
    assert source.load().config == CONFIG
    assert resolve("run", relative_to=tmp_path).path == folder
    assert resolve(str(folder), relative_to=tmp_path / "elsewhere").path == folder
    (tmp_path / "a.b.ff").write_bytes(b"")
    assert (resolve(tmp_path / "a.b.ff").name, resolve(tmp_path / "a.b.ff").kind) == ("a.b", "engine")
    with pytest.raises(InvalidArgumentError, match="built engine"):
        resolve(tmp_path / "a.b.ff").load()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    assert resolve(folder).kind == "hf_folder"


def test_fingerprint_follows_content_and_not_place(folder, tmp_path):
    before = resolve(folder).fingerprint()
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert resolve(copy).fingerprint() == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    changed_weights = resolve(folder).fingerprint()
    (copy / "tokenizer.json").write_text("{ }")
    assert len({before, changed_weights, resolve(copy).fingerprint()}) == 3


def test_what_is_no_model_is_said_with_the_known_forms(tmp_path):
    with pytest.raises(NotFoundError, match=r"no model 'gpt5'.*smollm2-135m.*config\.json.*\.gguf.*\.ff"):
        resolve("gpt5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArgumentError, match=r"has no config\.json"):
        resolve(tmp_path / "empty")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(InvalidArgumentError, match=r"model\.bin is not a model"):
        resolve(tmp_path / "model.bin")
    for text in ("", "  ", "a\0b"):
        with pytest.raises(InvalidArgumentError, match="must be a name or a path"):
            resolve(text)
