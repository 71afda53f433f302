"""Loads a folder in Hugging Face's layout: config.json, safetensors (sharded or not), tokenizer, generation config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flashflow.errors import DataLossError, InvalidArgumentError, NotFoundError, UnsupportedError
from flashflow.loaders.byte_level_bpe import AddedToken, byte_level_bpe_json
from flashflow.loaders.hf_config import config_from_hf
from flashflow.loaders.json_file import read_bounded, read_json_object
from flashflow.loaders.loaded_model import GenerationInfo, LoadedModel, check_weights
from flashflow.loaders.safetensors_file import open_safetensors
from flashflow.loaders.weight import LazyWeight
from flashflow.loaders.weight_names import hf_name, is_hf_buffer
from flashflow.models.config import ModelConfig

__all__ = ["load_hf_folder", "read_generation_info", "read_tokenizer", "read_weight_files", "weight_files"]

_INDEX = "model.safetensors.index.json"


def load_hf_folder(folder: Path) -> LoadedModel:
    """The model in folder.

    Raises:
      NotFoundError: a file that a model needs is not there.
      DataLossError: a file is damaged.
      UnsupportedError: the model or a field of its config is of a kind that FlashFlow does not run.
      InvalidArgumentError: config and weights contradict each other; the tensor is named.
    """
    fields = read_json_object(folder / "config.json")
    config = config_from_hf(fields)
    tensors = read_weight_files(folder)
    weights, unused = _rename(config, tensors)
    check_weights(config, weights, unused, str(folder))
    if "head.weight" not in config.weight_shapes() and "lm_head.weight" in tensors:
        _check_tied_head(tensors["lm_head.weight"], weights[next(iter(config.weight_shapes()))])
    return LoadedModel(
        name=folder.resolve().name,
        config=config,
        weights=weights,
        tokenizer_json=read_tokenizer(folder, "qwen2" if fields["model_type"] == "qwen2" else "gpt-2"),
        generation=read_generation_info(folder, fields),
    )


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, index first where there is one."""
    index = folder / _INDEX
    if not index.exists():
        single = folder / "model.safetensors"
        if not single.exists():
            pickles = sorted(path.name for path in folder.glob("*.bin")) or sorted(p.name for p in folder.glob("*.pt*"))
            if pickles:
                raise UnsupportedError(
                    f"{folder} has its weights in {pickles[0]}, a pickle: loading one runs code that it carries",
                    op=pickles[0],
                    hint="save the model as safetensors (transformers: save_pretrained writes them) and load that",
                )
            raise NotFoundError(f"{folder} has neither model.safetensors nor {_INDEX}", op="model.safetensors")
        return [single]
    shards = _weight_map(index)
    return [index, *(folder / name for name in sorted(set(shards.values())))]


def _weight_map(index: Path) -> dict[str, str]:
    shards = read_json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise DataLossError(f"{index} has no weight_map", op=_INDEX)
    for name, shard in shards.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[A-Za-z0-9._-]+\.safetensors", shard):
            raise DataLossError(
                f"{index} puts tensor {name!r} into {shard!r}, not a safetensors file beside it", op=name
            )
    return shards


def read_weight_files(folder: Path) -> dict[str, LazyWeight]:
    """Every tensor of the folder by its name."""
    files = weight_files(folder)
    if len(files) == 1:
        return open_safetensors(files[0])
    shards = {path.name: open_safetensors(path) for path in files[1:]}
    tensors: dict[str, LazyWeight] = {}
    for name, shard in _weight_map(files[0]).items():
        if name not in shards[shard]:
            raise DataLossError(f"{files[0]} puts tensor {name!r} into {shard}, which does not have it", op=name)
        tensors[name] = shards[shard][name]
    for shard, inside in shards.items():
        if extra := sorted(set(inside) - set(tensors)):
            raise DataLossError(f"{shard} has the tensor {extra[0]!r}, which {files[0]} does not list", op=extra[0])
    return tensors


def _rename(config: ModelConfig, tensors: dict[str, LazyWeight]) -> tuple[dict[str, LazyWeight], set[str]]:
    """The weights by our names, and the names of the tensors left over."""
    architecture = config.architecture
    # The oldest GPT-2 checkpoints lack the outer module's name.
    bare = architecture == "gpt2" and "wte.weight" in tensors
    weights: dict[str, LazyWeight] = {}
    used = {"lm_head.weight"} if "head.weight" not in config.weight_shapes() else set()
    for name, shape in config.weight_shapes().items():
        theirs = hf_name(architecture, name)
        theirs = theirs.removeprefix("transformer.") if bare else theirs
        if theirs not in tensors:
            continue
        used.add(theirs)
        weight = tensors[theirs]
        # GPT-2's linears are stored as [inputs, outputs].
        if architecture == "gpt2" and name.startswith("blocks.") and len(shape) == 2 and len(weight.shape) == 2:
            weight = weight.transposed()
        weights[name] = weight
    return weights, {name for name in tensors if name not in used and not is_hf_buffer(architecture, name)}


def _check_tied_head(head: LazyWeight, embedding: LazyWeight) -> None:
    if head.shape != embedding.shape or head.dtype != embedding.dtype or (head.read() != embedding.read()).any():
        raise InvalidArgumentError(
            "config.json ties the head to the token embedding, but lm_head.weight differs from it",
            op="lm_head.weight",
            hint="set tie_word_embeddings to false",
        )


def read_tokenizer(folder: Path, pre: str) -> bytes | None:
    """The tokenizer's JSON: tokenizer.json, or made of vocab.json and merges.txt; None where there is neither.

    Args:
      pre: how vocab.json's words are cut, a key of PRE_TOKENIZERS.
    """
    if (folder / "tokenizer.json").exists():
        return read_bounded(folder / "tokenizer.json")
    if not (folder / "vocab.json").exists() or not (folder / "merges.txt").exists():
        return None
    vocab = read_json_object(folder / "vocab.json")
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 1 << 31 for i in vocab.values()):
        raise DataLossError(f"{folder / 'vocab.json'} must map tokens to ids", op="vocab.json")
    try:
        lines = read_bounded(folder / "merges.txt").decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataLossError(f"{folder / 'merges.txt'} is not UTF-8: {error}", op="merges.txt") from error
    merges = [line for line in lines if line and not line.startswith("#version")]
    added = _added_tokens(folder)
    if not added and "<|endoftext|>" in vocab:
        added = [AddedToken(vocab["<|endoftext|>"], "<|endoftext|>", special=True)]
    return byte_level_bpe_json(vocab, merges, pre, added_tokens=added)


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json_object(path) if path.exists() else {}


def _added_tokens(folder: Path) -> list[AddedToken]:
    entries = _tokenizer_config(folder).get("added_tokens_decoder", {})
    tokens = []
    for key, entry in entries.items() if isinstance(entries, dict) else ():
        if not key.isdecimal() or not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise DataLossError(f"tokenizer_config.json: added token {key!r} is malformed", op="added_tokens_decoder")
        tokens.append(AddedToken(int(key), entry["content"], bool(entry.get("special", False))))
    return tokens


def read_generation_info(folder: Path, config: dict[str, Any]) -> GenerationInfo:
    """End tokens from generation_config.json, else from config.json; the chat template beside the tokenizer."""
    path = folder / "generation_config.json"
    generation = read_json_object(path) if path.exists() else {}

    def pick(name: str) -> Any:
        return generation[name] if generation.get(name) is not None else config.get(name)

    eos, bos = pick("eos_token_id"), pick("bos_token_id")
    return GenerationInfo.from_dict(
        {
            "bos_token_id": bos[0] if isinstance(bos, list) and bos else bos,
            "eos_token_ids": eos if isinstance(eos, list) else [] if eos is None else [eos],
            "chat_template": _chat_template(folder),
        }
    )


def _chat_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_bounded(path, 1 << 20).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataLossError(f"{path} is not UTF-8: {error}", op=str(path)) from error
    template = _tokenizer_config(folder).get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if not (template is None or isinstance(template, str)):
        raise DataLossError("tokenizer_config.json: chat_template must be text", op="chat_template")
    return template
