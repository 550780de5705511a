"""From a model's text to a validated output: tolerant of wrapping, strict about content."""

from dspex.compiler.answers.parser import AnswerParser
from dspex.compiler.answers.shape import OutputShape

__all__ = ["AnswerParser", "OutputShape"]
