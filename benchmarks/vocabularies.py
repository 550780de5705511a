"""Fits the weights of `dspex.compiler.estimate.tokens` to real token counts.

    python -m benchmarks.vocabularies COUNTS.jsonl

Each line of COUNTS.jsonl is ``{"kind": "en", "text": "...", "o200k": 58, "smollm2": 62, ...}``: a text, what it is, and
how many tokens each vocabulary makes of it. Any tokenizer may count them; the weights in use were fitted to npm's
gpt-tokenizer (o200k, cl100k), llama3-tokenizer-js (llama3) and @anthropic-ai/tokenizer (claude), and to the local
model's own, over public data sets, this project's sources and docs, and the translations that come with Linux.

Every second text is left out of the fit and gives the errors that are printed, by kind; the weights printed are those
of a fit to all.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.compiler.estimate.tokens import FEATURES, features

HEAVY = {"en", "json", "code", "md", "math"}
"""What prompts are made of mostly: it weighs three times as much."""

Matrix = NDArray[np.float64]


def fitted(matrix: Matrix, counts: Matrix, weights: Matrix, steps: int = 4000) -> Matrix:
    """Non-negative least squares on relative errors, by coordinate descent."""
    scale = weights / counts
    left = (matrix * scale[:, None]).T @ (matrix * scale[:, None])
    right = (matrix * scale[:, None]).T @ (counts * scale)
    found = np.zeros(matrix.shape[1])
    for _ in range(steps):
        for column in range(len(found)):
            if left[column, column]:
                step = (right[column] - left[column] @ found) / left[column, column]
                found[column] = max(0.0, found[column] + step)
    return found


def main() -> None:
    """Prints errors and weights for each vocabulary of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=Path)
    rows: list[dict[str, Any]] = [json.loads(line) for line in parser.parse_args().counts.read_text().splitlines()]
    matrix = np.array([[features(row["text"])[name] for name in FEATURES] for row in rows], dtype=np.float64)
    weights = np.array([3.0 if row["kind"] in HEAVY else 1.0 for row in rows])
    half = np.arange(len(rows)) % 2 == 0
    for name in [key for key in rows[0] if key not in ("kind", "text")]:
        counts = np.array([row[name] for row in rows], dtype=np.float64)
        found = fitted(matrix[half], counts[half], weights[half])
        errors = (matrix @ found - counts) / counts
        kinds: defaultdict[str, list[float]] = defaultdict(list)
        for row, error, seen in zip(rows, errors, half, strict=True):
            if not seen:
                kinds[row["kind"]].append(float(error))
        said = ", ".join(f"{kind} {np.sqrt(np.mean(np.square(each))):.0%}" for kind, each in kinds.items())
        print(f"{name}: {said}")
        print("   ", ", ".join(f"{weight:.2g}" for weight in fitted(matrix, counts, weights)))


if __name__ == "__main__":
    main()
