import gzip
import json

import pytest
import slowest_actions

EVENTS = [
    {"cat": "action processing", "name": "Compiling a.cu with nvcc", "dur": 2_000_000},
    {"cat": "action processing", "name": "Compiling b.cu with nvcc", "dur": 31_500_000},
    {"cat": "action processing", "name": "Linking c", "dur": 40_000_000},
    {"cat": "general information", "name": "Compiling everything", "dur": 99_000_000},
    {"cat": "action processing", "name": "begun and not ended"},
]
PROFILE = json.dumps({"otherData": {}, "traceEvents": EVENTS})


def test_slowest_first_and_actions_only():
    assert slowest_actions.slowest(PROFILE, 2) == [(40.0, "Linking c"), (31.5, "Compiling b.cu with nvcc")]
    assert [message for _, message in slowest_actions.slowest(PROFILE, 9, "nvcc")] == [
        "Compiling b.cu with nvcc",
        "Compiling a.cu with nvcc",
    ]


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_command_line(tmp_path, capsys, pack):
    (tmp_path / "profile").write_bytes(pack(PROFILE.encode()))
    assert slowest_actions.main([str(tmp_path / "profile"), "--count", "1", "--matching", "nvcc"]) == 0
    assert capsys.readouterr().out == "   31.5 s  Compiling b.cu with nvcc\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"traceEvents": [1]}', b"\x1f\x8bxx", b"\xff", gzip.compress(b"{}")[:10] + b"\xff\xff\xff"],
)
def test_what_is_no_profile_is_an_error(tmp_path, capsys, content):
    (tmp_path / "profile").write_bytes(content)
    assert slowest_actions.main([str(tmp_path / "profile")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
