"""Check the support-ticket data set: balance, lengths and near-duplicates.

Run ``python check_data.py [tickets.jsonl]``; it prints one line for each problem
and exits with status 1 if there is any.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

TEAMS = ("account", "billing", "delivery", "feedback", "returns", "technical")
MIN_ROWS = 330
MIN_WORDS, MAX_WORDS = 8, 45
RUN_LENGTH = 6
START_LENGTH = 4
MAX_JACCARD = 0.5
MAX_IMBALANCE = 0.10

Row = Mapping[str, str]


def words(text: str) -> list[str]:
    """Lowercase words of a text; an apostrophe inside a word belongs to it."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def load(path: Path) -> list[Row]:
    """Read one JSON object a line."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _row_problems(rows: Sequence[Row]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if set(row) != {"id", "text", "team"}:
            yield f"line {number}: fields are {sorted(row)}"
            continue
        if row["team"] not in TEAMS:
            yield f"{row['id']}: unknown team {row['team']!r}"
        # Counted by white space, as a reader would count.
        length = len(row["text"].split())
        if not MIN_WORDS <= length <= MAX_WORDS:
            yield f"{row['id']}: {length} words, not {MIN_WORDS} to {MAX_WORDS}"
        if row["text"] != row["text"].strip():
            yield f"{row['id']}: white space around the text"


def _balance_problems(rows: Sequence[Row]) -> Iterator[str]:
    if len(rows) < MIN_ROWS:
        yield f"{len(rows)} tickets, fewer than {MIN_ROWS}"
    counts = Counter(row["team"] for row in rows)
    mean = len(rows) / len(TEAMS)
    for team in TEAMS:
        if abs(counts[team] - mean) > MAX_IMBALANCE * mean:
            yield f"team {team}: {counts[team]} tickets, mean is {mean:.1f}"


def _shared(keys: Mapping[str, set[tuple[str, ...]]], what: str) -> Iterator[str]:
    owner: dict[tuple[str, ...], str] = {}
    for name, found in keys.items():
        for key in sorted(found):
            first = owner.setdefault(key, name)
            if first != name:
                yield f"{first}, {name}: same {what}: {' '.join(key)}"


def _pair_problems(rows: Sequence[Row]) -> Iterator[str]:
    ids = Counter(row["id"] for row in rows)
    yield from (f"{name}: id used {count} times" for name, count in ids.items() if count > 1)

    tokens = {row["id"]: words(row["text"]) for row in rows}
    yield from _shared({name: {tuple(t)} for name, t in tokens.items()}, "text")
    yield from _shared(
        {name: {tuple(t[:START_LENGTH])} for name, t in tokens.items()},
        f"first {START_LENGTH} words",
    )
    runs = {name: {tuple(t[i : i + RUN_LENGTH]) for i in range(len(t) - RUN_LENGTH + 1)} for name, t in tokens.items()}
    yield from _shared(runs, f"run of {RUN_LENGTH} words")

    vocabularies = {name: set(t) for name, t in tokens.items()}
    for (left, a), (right, b) in combinations(vocabularies.items(), 2):
        union = len(a | b)
        similarity = len(a & b) / union if union else 1.0
        if similarity > MAX_JACCARD:
            yield f"{left}, {right}: Jaccard similarity {similarity:.2f} > {MAX_JACCARD}"


def problems(rows: Sequence[Row]) -> list[str]:
    """Everything wrong with the data set, one message each; empty if it is sound."""
    found = list(_row_problems(rows))
    if any(set(row) != {"id", "text", "team"} for row in rows):
        return found
    return [*found, *_balance_problems(rows), *_pair_problems(rows)]


def main(arguments: Sequence[str]) -> int:
    """Print the problems of the given file; return the exit status."""
    path = Path(arguments[0]) if arguments else Path(__file__).with_name("tickets.jsonl")
    rows = load(path)
    found = problems(rows)
    for message in found:
        print(message)
    average = sum(len(row["text"].split()) for row in rows) / max(len(rows), 1)
    print(f"{len(rows)} tickets, {average:.1f} words on average, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
