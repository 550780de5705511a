"""Artifacts: a compiled program as one file, written, checked, read, signed and taken apart."""

from dspex.compiler.artifact.loading import load_archive, load_artifact, save

__all__ = ["load_archive", "load_artifact", "save"]
