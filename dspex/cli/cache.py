"""`dspex cache`: the response cache on disk."""

from __future__ import annotations

import click

from dspex.cli.output import emit, envelope


@click.group("cache")
def command() -> None:
    """Show and clear the response cache."""


@command.command("show")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def show(as_json: bool) -> None:
    """Print where the cache is, how many answers it holds and how large it is."""
    from dspex.stores.cache import ResponseCache, default_cache

    with ResponseCache() as cache:
        stats = cache.stats()
        if as_json:
            emit(envelope(path=str(default_cache()), entries=stats.entries, bytes=stats.bytes))
        else:
            click.echo(f"{default_cache()}: {stats.entries} answers, {stats.bytes / 1e6:.1f} MB")


@command.command("clear")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def clear(as_json: bool) -> None:
    """Delete every cached answer."""
    from dspex.stores.cache import ResponseCache, default_cache

    with ResponseCache() as cache:
        entries = cache.stats().entries
        cache.clear()
        if as_json:
            emit(envelope(path=str(default_cache()), deleted=entries))
        else:
            click.echo(f"deleted {entries} answers from {default_cache()}")
