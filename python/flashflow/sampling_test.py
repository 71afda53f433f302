import math

import pytest

from flashflow.errors import InvalidArgumentError
from flashflow.sampling import SamplingParams


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", None),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.0001),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", True),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("max_tokens", 0),
        ("max_tokens", 2**31),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "0"),
        ("stop", ""),
        ("stop", ["ok", ""]),
        ("stop", [1]),
        ("stop", ["x"] * 65),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["1"]),
        ("stop_token_ids", [2**31]),
        ("ignore_eos", 1),
        ("logprobs", -1),
        ("logprobs", 101),
        ("temperature", 1e39),
    ],
)
def test_value_out_of_range_is_refused_by_name(name, bad):
    with pytest.raises(InvalidArgumentError) as caught:
        SamplingParams(**{name: bad})
    assert str(caught.value).startswith(f"{name} is {bad!r}: expected ") or name == "stop"
    assert caught.value.op == name
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("temperature", 0),
        ("temperature", 100.0),
        ("top_p", 1),
        ("top_p", 1e-9),
        ("min_p", 0),
        ("min_p", 1),
        ("repetition_penalty", 0.5),
        ("top_k", 0),
        ("max_tokens", 1),
        ("seed", 0),
        ("seed", 2**64 - 1),
        ("seed", None),
        ("stop_token_ids", [0]),
        ("logprobs", 100),
    ],
)
def test_limits_themselves_are_allowed(name, good):
    value = getattr(SamplingParams(**{name: good}), name)
    assert value == (tuple(good) if isinstance(good, list) else good)


def test_one_stop_string_needs_no_list():
    assert SamplingParams(stop="END").stop == ("END",)


def test_it_cannot_be_changed_after_the_check():
    with pytest.raises(AttributeError):
        SamplingParams().temperature = -1


def test_unknown_parameter_is_refused():
    with pytest.raises(TypeError, match="beam_width"):
        SamplingParams(beam_width=2)
