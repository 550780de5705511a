"""Modules: the programs that call a language model."""

from dspex.program.modules.chain_of_thought import ChainOfThought
from dspex.program.modules.module import (
    ANSWERS,
    FORMATS,
    SCORINGS,
    Answers,
    Format,
    Module,
    ModuleSettings,
    Scoring,
)
from dspex.program.modules.predict import Predict

__all__ = [
    "ANSWERS",
    "FORMATS",
    "SCORINGS",
    "Answers",
    "ChainOfThought",
    "Format",
    "Module",
    "ModuleSettings",
    "Predict",
    "Scoring",
]
