"""Carrying stores over ``os.fork``.

SQLite keeps its view of file locks in process memory: a connection opened before a fork, or a second one to the
same file opened after it, may corrupt the file or lose writes (sqlite.org/howtocorrupt.html §2.6). So every open
store is brought to
rest before the process forks: its connections are closed while no other thread is inside SQLite, and parent and
child open fresh ones when they next need them. ``subprocess`` is not concerned: it does not run fork hooks.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["track"]


class Forked(Protocol):
    """What a store does around a fork."""

    def before_fork(self) -> None:
        """Take the store's gates, wait for work under way, close connections."""

    def after_fork_in_parent(self) -> None:
        """Open the gates again."""

    def after_fork_in_child(self) -> None:
        """Forget threads and queues that only the parent has; make fresh gates."""


_stores: weakref.WeakSet[Forked] = weakref.WeakSet()
_held: list[Forked] = []


def track(store: Forked) -> None:
    """Look after `store` at forks for as long as it lives."""
    _stores.add(store)


def _before() -> None:
    for store in list(_stores):
        store.before_fork()
        _held.append(store)


def _parent() -> None:
    while _held:
        _held.pop().after_fork_in_parent()


def _child() -> None:
    while _held:
        _held.pop().after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_parent, after_in_child=_child)
