"""Persistent, resumable searches over a program's Variables."""
