"""flashflow export-fx-graph and export-checkpoint: a model as a graph, a model as an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from flashflow.cli.console import ProgressLine
from flashflow.cli.verb import MODEL_HELP, DebugOption, Dtype, KvDtype, KvDtypeOption, verb
from flashflow.errors import InvalidArgumentError
from flashflow.output_folder import make_output_folder


@verb
def export_fx_graph(
    model: Annotated[str, typer.Option("--model-name", "--model", metavar="MODEL", help=MODEL_HELP)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the graph goes, as JSON.")],
    debug: DebugOption = False,
) -> None:
    """Export a model's FX graph: what torch.export sees, before the compiler."""
    make_output_folder(out.parent, "--out")
    progress = ProgressLine()
    progress(f"exporting {model}")
    from flashflow.frontend.export_fx_graph import export_fx_graph as export

    graph = export(model, out)
    progress.done(f"{len(graph['nodes'])} nodes, {len(graph['weights'])} weights")
    typer.echo(out)


@verb
def export_checkpoint(
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)],
    out_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where NAME.ff goes.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.ff", help="Where the engine goes.", show_default=False)
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and KV cache; auto is float32.")] = Dtype.AUTO,
    kv_dtype: KvDtypeOption = KvDtype.AUTO,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Of int8 and int4: weights that stay in bfloat16, such as 'layers.0.*'. Can be given more than once.",
            show_default=False,
        ),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Compile a model into an engine: one file with graph, plan, weights and tokenizer, that runs without torch."""
    if (out_dir is None) == (out is None):
        raise typer.BadParameter("give --out-dir or --out, one of them")
    if out is not None and out.suffix != ".ff":
        raise InvalidArgumentError(
            f"{out} does not end in .ff", op="--out", hint="by that ending --model knows an engine"
        )
    progress = ProgressLine()
    from flashflow.engine_builder import build_engine
    from flashflow.loaders.resolve import resolve

    progress(f"loading {model}")
    source = resolve(model)
    if source.kind == "engine":
        raise InvalidArgumentError(f"{model} is an engine already", op="--model")
    path = out if out is not None else Path(out_dir or ".") / f"{_file_name(source.name)}.ff"
    make_output_folder(path.parent, "--out-dir" if out is None else "--out")
    build_engine(
        source.load(),
        path,
        "float32" if dtype is Dtype.AUTO else dtype.value,
        progress,
        keep_float or (),
        kv_dtype=kv_dtype.value,
    )
    progress.done(f"{path.stat().st_size / 1e6:.1f} MB")
    typer.echo(path)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
