"""flashflow cache: the engines that were built."""

from __future__ import annotations

import time

import typer

from flashflow.cache import EngineCache
from flashflow.cli.verb import CacheDirOption, DebugOption, verb

app = typer.Typer(help="List or delete built engines.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
@verb
def list_engines(cache_dir: CacheDirOption = None, debug: DebugOption = False) -> None:
    """List the engines, the one used last first."""
    cache = EngineCache(cache_dir)
    entries = cache.entries()
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        made_of = " ".join(str(entry.description.get(key, "?")) for key in ("model", "dtype"))
        if "kv_dtype" in entry.description:
            made_of += f", KV cache of {entry.description['kv_dtype']}"
        typer.echo(f"{entry.path.stem}  {entry.size_bytes / 1e6:9.1f} MB  used {used}  {made_of}")
    total = sum(entry.size_bytes for entry in entries)
    typer.echo(
        f"{len(entries)} engines, {total / 1e6:.1f} MB of at most {cache.max_bytes / 1e6:.0f} MB: {cache.engines}"
    )


@app.command("clear")
@verb
def clear(cache_dir: CacheDirOption = None, debug: DebugOption = False) -> None:
    """Delete all engines that are not being built at this moment."""
    deleted = EngineCache(cache_dir).clear()
    typer.echo(f"deleted {len(deleted)} engines, {sum(entry.size_bytes for entry in deleted) / 1e6:.1f} MB")
