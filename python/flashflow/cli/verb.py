"""What all verbs have in common: how they fail, and their shared options."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from flashflow.cli.console import show_error, show_log

P = ParamSpec("P")


class Dtype(str, enum.Enum):
    """--dtype"""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"


class KvDtype(str, enum.Enum):
    """--kv-dtype"""

    AUTO = "auto"
    INT8 = "int8"


class Device(str, enum.Enum):
    """--device"""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


DebugOption = Annotated[bool, typer.Option("--debug", help="Show the log's details, and where an error comes from.")]
CacheDirOption = Annotated[
    Path | None, typer.Option("--cache-dir", metavar="DIR", help="Where built engines are kept.", show_default=False)
]
DtypeOption = Annotated[
    Dtype,
    typer.Option("--dtype", help="Of weights and KV cache; auto: float32 on a CPU, bfloat16 on a GPU. int4: on a CPU."),
]
KvDtypeOption = Annotated[
    KvDtype, typer.Option("--kv-dtype", help="Of the KV cache; int8: codes, with a scale for each head and token.")
]
DeviceOption = Annotated[
    Device, typer.Option("--device", help="auto: the GPU where there is one that this build can use.")
]
TorchDeviceOption = Annotated[Device, typer.Option("--device", help="auto: the GPU where torch finds one.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="CPU threads.", show_default="as many as the process may use")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, when done.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
MODEL_HELP = "A name (smollm2-135m), a folder with config.json and *.safetensors, a .gguf or a .ff file."


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Makes a function a verb: an exception becomes an error message of one or two lines and exit status 1."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        debug = bool(kwargs.get("debug"))
        show_log(verbose=debug)
        try:
            function(*args, **kwargs)
        except (KeyboardInterrupt, typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if debug:
                raise
            show_error(error)
            raise typer.Exit(1) from error

    return run
