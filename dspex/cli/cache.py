"""`dspex cache`: the response cache on disk."""

from __future__ import annotations

import click

from dspex.cli.output import emit, envelope


@click.group("cache")
def command() -> None:
    """Show, check and clear the response cache."""


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


@command.command("check")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(as_json: bool) -> None:
    """Read every cached answer and drop those that are damaged."""
    from dspex.stores.cache import ResponseCache, default_cache

    with ResponseCache() as cache:
        found = cache.check()
        if as_json:
            aside = None if found.aside is None else str(found.aside)
            emit(envelope(path=str(default_cache()), sound=found.sound, dropped=found.dropped, aside=aside))
        elif found.aside is not None:
            click.echo(f"{default_cache()}: damaged, and set aside as {found.aside}; a new cache was begun")
        else:
            click.echo(f"{default_cache()}: {found.sound} answers are sound, {found.dropped} were damaged and dropped")


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
