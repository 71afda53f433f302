"""What an engine's weights are stored as."""

import pytest
from safetensors import safe_open

from flashflow.engine_builder import build_engine
from flashflow.errors import InvalidArgumentError
from flashflow.loaders.resolve import resolve
from flashflow.tiny_model import write_tiny_model

UP = "blocks.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return resolve(str(folder)).load()


def dtypes(path):
    """By tensor."""
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        return {name: file.get_slice(name).get_dtype() for name in names}


def test_int4_has_codes_of_groups_and_8_bits_for_the_table(loaded, tmp_path):
    build_engine(loaded, tmp_path / "all.ff", "int4", lambda *_: None)
    build_engine(loaded, tmp_path / "kept.ff", "int4", lambda *_: None, keep_float=["blocks.1.mlp.*"])
    everything, kept = dtypes(tmp_path / "all.ff"), dtypes(tmp_path / "kept.ff")
    groups = {name for name, dtype in everything.items() if dtype == "F16"}
    still = {name for name, dtype in kept.items() if dtype == "F16"}
    assert groups - still == {f"blocks.1.mlp.{name}.weight.scales" for name in ("up_proj", "down_proj")}
    assert {everything[name.replace(".scales", ".codes")] for name in groups} == {"I8"}
    eight_bits = {n for n, d in everything.items() if d == "I8" and everything[n.replace(".codes", ".scales")] == "F32"}
    assert eight_bits == {"wte.weight.codes"} and UP in kept and UP not in everything


def test_int8_keeps_the_weights_that_are_named_in_floats(loaded, tmp_path):
    build_engine(loaded, tmp_path / "all.ff", "int8", lambda *_: None)
    build_engine(loaded, tmp_path / "kept.ff", "int8", lambda *_: None, keep_float=["blocks.1.mlp.*"])
    everything, kept = dtypes(tmp_path / "all.ff"), dtypes(tmp_path / "kept.ff")
    coded = {name for name, dtype in everything.items() if dtype == "I8"}
    still = {name for name, dtype in kept.items() if dtype == "I8"}
    assert coded - still == {f"blocks.1.mlp.{name}.weight.codes" for name in ("up_proj", "down_proj")}
    assert still < coded and UP in kept and UP not in everything


@pytest.mark.parametrize(
    ("dtype", "pattern", "message"),
    [
        ("int8", "layers.7.*", "no weight of a layer is named 'layers.7.*'.*the first is blocks.0"),
        ("int8", "*norm*", "no weight of a layer"),
        ("bfloat16", "*", "an engine of bfloat16 has no codes"),
    ],
)
def test_patterns_that_say_nothing_are_refused(loaded, tmp_path, dtype, pattern, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build_engine(loaded, tmp_path / "a.ff", dtype, lambda *_: None, keep_float=[pattern])
    assert not list(tmp_path.iterdir())
