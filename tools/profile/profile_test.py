"""The profilers' commands where there is no GPU and no profiler, and with profilers that are scripts."""

import pytest
from tools.profile import ncu, nsys, target

CSV = "tools/profile/testdata/ncu_mlp.csv"
MLP = ["--kernel-name", "fused_mlp", "--bench", "1 rows 768"]


@pytest.fixture
def profiler(tmp_path, monkeypatch):
    """A program that notes its arguments and copies the file of a profile to where it is told to log."""
    script = tmp_path / "profiler"
    script.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" > '
        + f'{tmp_path}/words\nwhile [ "$1" != --log-file ]; do shift; done\ncp {CSV} "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(target, "find_tool", lambda name: str(script))
    return tmp_path


@pytest.mark.parametrize(("command", "product"), [(ncu, "Nsight Compute"), (nsys, "Nsight Systems")])
def test_without_the_profiler_one_sentence_says_how_to_get_it(capsys, monkeypatch, command, product):
    monkeypatch.setattr(target, "find_tool", lambda name: "")
    assert command.main(MLP) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "is not on this machine: it is part of the CUDA toolkit" in err and product in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kernel-name", "fused_conv"], "there is no kernel 'conv'"),
        (["--kernel-name", "mlp", "--bench", "9x9x9"], "no shape has 9x9x9"),
        (["--kernel-name", "mlp", "--variant", "fa2"], "has no variant 'fa2': expected ours, cublaslt"),
    ],
)
def test_a_case_that_there_is_not(capsys, words, message):
    assert ncu.main(words) == 2
    assert message in capsys.readouterr().err


def test_ncu_profiles_the_named_case_and_leaves_the_clocks(profiler, capsys):
    assert ncu.main([*MLP, "--csv", str(profiler / "kept.csv")]) == 0
    words = (profiler / "words").read_text().splitlines()
    assert words[words.index("--clock-control") + 1] == "none"
    assert words[words.index("--profile-from-start") + 1] == "off"
    assert words[words.index("--shape") + 1] == "1 rows 768-3072-768"
    assert words[words.index("--kernel") + 1] == "mlp" and words[words.index("--variant") + 1] == "ours"
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "mlp 1 rows 768-3072-768, ours" and any(line.startswith("together ") for line in out)
    assert (profiler / "kept.csv").is_file()


def test_a_kept_profile_is_read_again(profiler, capsys):
    assert ncu.main([*MLP, "--from-csv", CSV]) == 0
    assert "together" in capsys.readouterr().out and not (profiler / "words").exists()


def test_nsys_that_writes_nothing_is_an_error(profiler, capsys):
    (profiler / "profiler").write_text("#!/bin/sh\nexit 3\n")
    assert nsys.main([*MLP, "-o", str(profiler / "x")]) == 1
    assert capsys.readouterr().err == "error: nsys wrote no report (exit status 3)\n"
