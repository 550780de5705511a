"""From Variables and rules to the flat parameter table."""

from dspex.compiler.lower.lowered import Lowered, Note
from dspex.compiler.lower.lowering import lower

__all__ = ["Lowered", "Note", "lower"]
