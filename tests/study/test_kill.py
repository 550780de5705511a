"""A study that is killed at any moment resumes to the result that it would have had (all moments: `kill_runs.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.study.kill_runs import Moment, killed, uninterrupted


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return uninterrupted(tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize(
    "moment",
    [
        Moment("study.created"),
        Moment("attempt.started", 37),
        Moment("call.committed", 90),
        Moment("evaluation.settled", 150),
        Moment("study.resumed"),
    ],
    ids=lambda moment: f"{moment.kind}-{moment.count}",
)
def test_killed_study_resumes_to_the_same_result(tmp_path: Path, moment: Moment, expected: dict[str, Any]) -> None:
    result = killed(tmp_path, moment, expected)
    assert result is not None
    assert result.differences == ()
    assert result.resent_committed == 0
    assert result.sent_again <= result.reported <= result.in_flight
    if moment.kind == "attempt.started":
        assert result.in_flight > 1  # how many depends on when the machine got to them
