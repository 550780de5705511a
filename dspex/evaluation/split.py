"""Train, validation and held-out parts that share no input.

Which part an example falls into depends on the seed and on the content of the data, never on the order of its
rows. Inputs that differ only in case, blanks or Unicode form count as one, and all rows of one input fall into the
same part. Where the output has a field of closed choices, each of its labels is spread over the parts in
proportion.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, TypeVar, cast

from dspex.errors import DataError
from dspex.evaluation.dataset import Dataset, Example
from dspex.program.demos import canonical_json
from dspex.program.schema import Schema

__all__ = ["FRACTIONS", "MINIMUM", "Split", "split"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

FRACTIONS = (0.4, 0.3, 0.3)
"""Shares of train, validation and held-out."""

MINIMUM = (1, 2, 2)
"""Distinct inputs that each part has at least: an interval needs two."""

_NAMES = ("train", "validation", "held_out")


@dataclass(frozen=True, slots=True)
class Split(Generic[I, O]):
    """Three disjoint parts of the data.

    Attributes:
        train: What proposers may show to models.
        validation: What candidates are scored on.
        held_out: What the report states; nothing else may look at it.
        seed: Of the split.
        notices: Repeated inputs, and those whose rows want different outputs.
    """

    train: Dataset[I, O]
    validation: Dataset[I, O]
    held_out: Dataset[I, O]
    seed: int
    notices: tuple[str, ...] = ()

    @property
    def hashes(self) -> dict[str, str]:
        """Content hash of each part, by name."""
        return {"train": self.train.hash, "validation": self.validation.hash, "held_out": self.held_out.hash}


def split(
    dataset: Dataset[I, O],
    seed: int = 0,
    *,
    fractions: Sequence[float] = FRACTIONS,
    minimum: Sequence[int] = MINIMUM,
    held_out: Dataset[I, O] | None = None,
) -> Split[I, O]:
    """Divide a data set into train, validation and held-out.

    Args:
        dataset: The examples.
        seed: Another seed gives another split.
        fractions: Shares of the three parts; they add up to 1.
        minimum: Distinct inputs that the three parts have at least.
        held_out: A held-out part of one's own; `dataset` is then divided into the other two, in their proportion.

    Raises:
        DataError: DX5201: too few distinct inputs; DX5202: fractions or minimum are not sound; DX5203: `held_out`
        shares
            inputs with `dataset`.
    """
    shares, least = _checked(fractions, minimum)
    groups = _groups(dataset)
    notices = _notices(groups)
    if held_out is not None:
        _check_disjoint(groups, held_out)
        shares, least = (shares[0], shares[1], 0.0), (least[0], least[1], 0)
        theirs = _groups(held_out)
        if len(theirs) < minimum[2]:
            raise _too_few(len(theirs), "the held-out part", minimum[2], held_out.source)
        notices += _notices(theirs)
    if len(groups) < sum(least):
        wants = ", ".join(f"{n} for {name}" for n, name in zip(least, _NAMES, strict=True) if n)
        raise _too_few(len(groups), "the data set", sum(least), dataset.source, wants)
    sizes = _sizes(len(groups), shares, least)
    ordered = _order(dataset, groups, seed)
    parts: list[list[Example[I, O]]] = []
    start = 0
    for size in sizes:
        parts.append([example for key in ordered[start : start + size] for example in groups[key]])
        start += size
    train, validation, rest = (dataset.but(part) for part in parts)
    return Split(train, validation, rest if held_out is None else held_out, seed, tuple(notices))


def _checked(
    fractions: Sequence[float], minimum: Sequence[int]
) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    sound = len(fractions) == 3 and all(0 < share < 1 for share in fractions)
    if not sound or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(
            "DX5202",
            f"fractions are three positive shares that add up to 1, got {tuple(fractions)}",
            fix=f"for example {FRACTIONS}",
        )
    if len(minimum) != 3 or any(size < 0 for size in minimum):
        raise DataError(
            "DX5202", f"minimum is three sizes of at least 0, got {tuple(minimum)}", fix=f"for example {MINIMUM}"
        )
    a, b, c = fractions
    x, y, z = minimum
    return (a, b, c), (x, y, z)


def _too_few(found: int, what: str, wanted: int, source: str, details: str = "") -> DataError:
    return DataError(
        "DX5201",
        f"{what} has {found} distinct input{'' if found == 1 else 's'} and needs at least {wanted}"
        + (f" ({details})" if details else ""),
        where=source,
        fix="add examples; a report that can tell better from worse wants 90 or more held out",
    )


def _folded(value: object) -> object:
    """Texts without what does not make them another input."""
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    if isinstance(value, list):
        return [_folded(item) for item in cast("list[object]", value)]
    if isinstance(value, Mapping):
        return {key: _folded(item) for key, item in cast("Mapping[str, object]", value).items()}
    return value


def _groups(dataset: Dataset[I, O]) -> dict[str, list[Example[I, O]]]:
    """Examples by folded input, each group in the order of content hashes."""
    groups: dict[str, list[Example[I, O]]] = {}
    for example in dataset:
        text = canonical_json(_folded(example.input.model_dump(mode="json")))
        groups.setdefault(sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), []).append(example)
    for members in groups.values():
        members.sort(key=lambda example: example.hash)
    return groups


def _notices(groups: Mapping[str, list[Example[I, O]]]) -> list[str]:
    repeated = [members for members in groups.values() if len(members) > 1]
    conflicting = [m for m in repeated if len({canonical_json(e.want.model_dump(mode="json")) for e in m}) > 1]
    notices: list[str] = []
    if repeated:
        rows = sum(len(members) for members in repeated)
        notices.append(f"{len(repeated)} inputs stand in {rows} rows; all rows of one input are in the same part")
    if conflicting:
        places = ", ".join(sorted(example.where for example in conflicting[0])[:3])
        notices.append(f"{len(conflicting)} inputs have rows that want different outputs, for example {places}")
    return notices


def _check_disjoint(groups: Mapping[str, list[Example[I, O]]], held_out: Dataset[I, O]) -> None:
    shared = {key: members for key, members in _groups(held_out).items() if key in groups}
    if shared:
        key, members = next(iter(shared.items()))
        raise DataError(
            "DX5203",
            f"{len(shared)} inputs of the held-out part are in the data set as well, for example "
            f"{members[0].where or 'one row'} = {groups[key][0].where or 'another row'}",
            where=held_out.source,
            fix="remove them from one of the two: a score on seen examples says nothing",
        )


def _sizes(total: int, shares: Sequence[float], least: Sequence[int]) -> list[int]:
    """`total` in proportion (largest remainders), each part at its minimum at least."""
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    sizes = [math.floor(size + 1e-9) for size in exact]
    for part in sorted(range(3), key=lambda p: sizes[p] - exact[p])[: total - sum(sizes)]:
        sizes[part] += 1
    for part in range(3):
        while sizes[part] < least[part]:
            donor = max(range(3), key=lambda p: sizes[p] - least[p])
            sizes[donor] -= 1
            sizes[part] += 1
    return sizes


def _order(dataset: Dataset[I, O], groups: Mapping[str, list[Example[I, O]]], seed: int) -> list[str]:
    """Group keys such that any stretch of them has the labels in proportion (systematic sampling)."""
    field = dataset.labels
    strata: dict[str, list[tuple[bytes, str]]] = {}
    for key, members in groups.items():
        label = "" if field is None else canonical_json(members[0].want.model_dump(mode="json")[field])
        strata.setdefault(label, []).append((_draw(seed, key), key))
    placed: list[tuple[float, bytes, str]] = []
    for label, members in strata.items():
        # A random start per label, or every label with one example would fall into the same part.
        offset = int.from_bytes(_draw(seed, "label " + label)[:6], "big") / 2**48
        for rank, (drawn, key) in enumerate(sorted(members)):
            placed.append(((rank + offset) / len(members), drawn, key))
    return [key for _, _, key in sorted(placed)]


def _draw(seed: int, key: str) -> bytes:
    return sha256(f"{seed} {key}".encode()).digest()
