"""Priors of calibrated scoring, measured on inputs of the validation part.

A small model prefers some answers whatever it is asked. The mean score of each choice over many inputs says how much;
taken away from every answer's scores, it leaves what the input says. The requests are those of plain scoring, so the
answers that a race buys anyway give the prior for nothing.

Source: Zhou et al., "Batch Calibration" (ICLR 2024), eq. 4, with means of logarithms, and with the label shares of
the training part in place of equal ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from dspex.program.trace import CallRecord

SMOOTHING = 1.0
"""Added to each label's count, so that a label without training examples stays possible."""


def module_scores(calls: Iterable[CallRecord], path: str) -> list[tuple[float, ...]]:
    """The scores that a module's calls gave to the choices, a row a call."""
    return [
        call.response.choice_logprobs
        for call in calls
        if call.module == path and call.response is not None and call.response.choice_logprobs is not None
    ]


def fitted_prior(rows: Sequence[Sequence[float]], shares: Sequence[float] | None = None) -> tuple[float, ...] | None:
    """What to take away from each choice's score so that the choices come out as often as `shares` says.

    Args:
        rows: Scores of the choices, natural logarithms, a row an input.
        shares: How often each choice is wanted; equally often by default.

    Returns:
        One number a choice, or None when there is nothing to measure.
    """
    finite = [row for row in rows if all(math.isfinite(score) for score in row)]
    if not finite:
        return None
    size = len(finite[0])
    means = [0.0] * size
    for row in finite:
        top = max(row)
        total = top + math.log(math.fsum(math.exp(score - top) for score in row))
        for index, score in enumerate(row):
            means[index] += (score - total) / len(finite)
    if shares is not None:
        means = [mean - math.log(share) for mean, share in zip(means, shares, strict=True)]
    return tuple(round(mean, 6) for mean in means)


def label_shares(counts: Mapping[str, int], labels: Sequence[str]) -> tuple[float, ...]:
    """Smoothed shares of `labels`, in their order."""
    total = sum(counts.get(label, 0) for label in labels) + SMOOTHING * len(labels)
    return tuple((counts.get(label, 0) + SMOOTHING) / total for label in labels)
