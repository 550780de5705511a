"""Prompts from templates that are prepared once a bound module; a call fills in what changes."""

from dspex.compiler.render.prepared import PreparedModule, prepare

__all__ = ["PreparedModule", "prepare"]
