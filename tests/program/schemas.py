"""Schemas that the tests of this package share."""

from __future__ import annotations

from typing import Literal

import dspex as dx


class Ask(dx.Schema):
    question: str


class Answer(dx.Schema):
    """Answer the question."""

    answer: str


class Note(dx.Schema):
    text: str


class Team(dx.Schema):
    team: Literal["billing", "delivery", "returns"]
