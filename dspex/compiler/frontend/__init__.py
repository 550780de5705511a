"""The front end: the source of `__call__` is interpreted symbolically, never run."""

from dspex.compiler.frontend.reader import Reading, read_program

__all__ = ["Reading", "read_program"]
