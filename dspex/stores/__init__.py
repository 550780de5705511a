"""Stores: the append-only event log and the cache of answers, in memory and in SQLite."""
