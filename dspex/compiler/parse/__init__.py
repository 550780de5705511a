"""From a model's text to a validated output: tolerant of wrapping, strict about content."""

from dspex.compiler.parse.answers import AnswerParser
from dspex.compiler.parse.shape import OutputShape

__all__ = ["AnswerParser", "OutputShape"]
