import pickle

import pytest

from flashflow import errors


@pytest.mark.parametrize(
    ("code", "cls", "builtin"),
    [
        ("INVALID_ARGUMENT", errors.InvalidArgumentError, ValueError),
        ("OUT_OF_RANGE", errors.InvalidArgumentError, ValueError),
        ("NOT_FOUND", errors.NotFoundError, ValueError),
        ("DATA_LOSS", errors.DataLossError, ValueError),
        ("UNIMPLEMENTED", errors.UnsupportedError, ValueError),
        ("FAILED_PRECONDITION", errors.FailedPreconditionError, RuntimeError),
        ("RESOURCE_EXHAUSTED", errors.ResourceExhaustedError, RuntimeError),
        ("INTERNAL", errors.InternalError, RuntimeError),
        ("SOMETHING_NEW", errors.InternalError, RuntimeError),
    ],
)
def test_status_codes_map_to_classes(code, cls, builtin):
    error = errors.make_error(code, "what", "linear_3", "do this")
    assert type(error) is cls
    assert isinstance(error, builtin)
    assert (error.code, error.op, error.hint) == (code, "linear_3", "do this")


def test_text_has_operation_message_and_hint_once():
    assert str(errors.InvalidArgumentError("bad")) == "bad"
    assert str(errors.InvalidArgumentError("bad", op="linear_3", hint="fix")) == "linear_3: bad (hint: fix)"
    assert str(errors.InvalidArgumentError("bad linear_3", op="linear_3")) == "bad linear_3"


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(errors.make_error("OUT_OF_RANGE", "m", "o", "h")))
    assert isinstance(error, errors.InvalidArgumentError)
    assert (error.message, error.op, error.hint, error.code) == ("m", "o", "h", "OUT_OF_RANGE")
