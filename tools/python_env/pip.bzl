"""The machine's Python and pip, for repository rules."""

PIP_ENVIRONMENT = ["FLASHFLOW_PYTHON", "PATH", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL"]

def find_python(rctx):
    """The path of a python3 of a supported version, with venv."""
    found = rctx.execute(["sh", rctx.path(Label("//tools/python_env:find_python.sh"))])
    if found.return_code:
        fail(found.stderr.strip())
    return found.stdout.strip()

def pip_command(rctx):
    """The command that is pip: the machine's, or that of a throw-away environment in the folder "pip"."""
    python = find_python(rctx)
    if rctx.execute([python, "-m", "pip", "--version"]).return_code == 0:
        return [python, "-m", "pip"]
    made = rctx.execute([python, "-m", "venv", "pip"], timeout = 600)
    if made.return_code:
        fail("%s -m venv failed (Debian, Ubuntu: apt-get install python3-venv): %s" % (python, made.stderr.strip()[-1000:]))
    return ["pip/bin/python", "-m", "pip"]
