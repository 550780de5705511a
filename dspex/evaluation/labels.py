"""How often each label is given: a model that answers one label for everything shows here first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dspex.program.schema import OneOf, Schema, choices_of

__all__ = ["ONE_LABEL", "distribution", "one_label_warning", "options_of"]

ONE_LABEL = 0.6
"""Share of all answers above which one label calls for a warning."""


def options_of(schema: type[Schema], field: str) -> tuple[object, ...] | None:
    """The values of a field of closed choices (Literal, Enum, bool or ``choices=``); None for any other field."""
    info = schema.model_fields[field]
    for entry in info.metadata:
        if isinstance(entry, OneOf):
            return entry.values
    return choices_of(info.annotation)


def distribution(outputs: Iterable[Schema | None], schema: type[Schema], field: str) -> dict[str, int]:
    """How many outputs have each label of a field of closed choices, in the order of the schema.

    Outputs that are None (failures) are not counted; labels that nobody gave count 0.
    """
    counts = {label_text(value): 0 for value in options_of(schema, field) or ()}
    for output in outputs:
        if output is not None:
            label = label_text(getattr(output, field))
            counts[label] = counts.get(label, 0) + 1
    return counts


def label_text(value: object) -> str:
    """A label as JSON would show it, without quotes."""
    plain: object = getattr(value, "value", value)
    if plain is None or isinstance(plain, bool):
        return {True: "true", False: "false", None: "null"}[plain]
    return str(plain)


def one_label_warning(
    counts: Mapping[str, int], what: str = "the program", *, expected: Mapping[str, int] | None = None
) -> str | None:
    """A warning when one label is given for more than 60 % of the inputs, else None.

    Args:
        counts: Of `distribution`.
        what: Who gave the labels, for the text.
        expected: The wanted labels' distribution; it is stated beside.
    """
    total = sum(counts.values())
    if total < 2 or len(counts) < 2:
        return None
    label = max(counts, key=lambda name: counts[name])
    share = counts[label] / total
    if share <= ONE_LABEL:
        return None
    text = f"{what} answers {label!r} for {share:.0%} of the inputs"
    wanted = sum(expected.values()) if expected else 0
    if expected and wanted:
        text += f", which is right for {expected.get(label, 0) / wanted:.0%}"
    return text
