"""What proposers put into pools."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from dspex.lm.spend import NOTHING
from dspex.lm.types import LMRequest, LMResponse
from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.schema import Schema, field
from dspex.program.trace import CallRecord
from dspex.proposers import bootstrap, instructions, labelled


class Ask(Schema):
    text: str = field(description="what the customer wrote")


class Kind(Schema):
    """Sort the message."""

    kind: Literal["a", "b", "c"]


class Note(Schema):
    note: str


def demos(count: int, classes: int = 3) -> list[Demo]:
    return [Demo({"text": f"text {n}"}, {"kind": "abcdefghijklmnop"[n % classes]}) for n in range(count)]


@given(st.integers(0, 60), st.integers(1, 16), st.integers(0, 5))
def test_sets_are_distinct_and_hold_every_example_once_at_most(count: int, classes: int, seed: int) -> None:
    pool = demos(count, classes)
    found = labelled.labelled_sets("p.demos", pool, seed=seed)
    assert found == labelled.labelled_sets("p.demos", pool, seed=seed)
    assert len({proposal.digest for proposal in found}) == len(found)
    for proposal in found:
        assert isinstance(proposal.member, DemoSet)
        shown = Counter(demo.hash for demo in proposal.member.demos)
        assert max(shown.values()) == 1
        assert set(shown) <= {demo.hash for demo in pool}


def test_sets_are_balanced_over_few_classes() -> None:
    for proposal in labelled.labelled_sets("p.demos", demos(60, 6), seed=1):
        assert isinstance(proposal.member, DemoSet)
        counts = Counter(demo.output_json for demo in proposal.member.demos)
        assert len(counts) == 6
        assert len(set(counts.values())) == 1


def test_demonstrations_fit_the_room() -> None:
    pool = demos(60)
    room = 5 * labelled.token_estimate(pool[0])
    for proposal in [*labelled.labelled_sets("d", pool, seed=0, room=room), *labelled.nearest("d", pool, room=room)]:
        member = proposal.member
        assert not isinstance(member, str)
        assert (member.k if isinstance(member, Nearest) else len(member.demos)) <= 5


def test_nearest_offers_growing_sizes_below_the_pool() -> None:
    sizes = [proposal.details["k"] for proposal in labelled.nearest("d", demos(10))]
    assert sizes == [3, 4, 8]  # of each of three outputs, then of all
    assert [proposal.details["k"] for proposal in labelled.nearest("d", demos(3))] == [2]
    assert labelled.nearest("d", demos(1)) == []


def _call(module: str, given: Schema, output: Schema | None, reasoning: str | None = None) -> CallRecord:
    return CallRecord(
        module, "m", LMRequest(), LMResponse("x"), "k", False, 1, NOTHING, 0.0, reasoning, output, None, given
    )


def test_only_accepted_runs_become_demonstrations() -> None:
    good = _call("one", Ask(text="a"), Note(note="n"), "so")
    runs = [
        bootstrap.TracedRun(1.0, (good, _call("two", Note(note="n"), None))),
        bootstrap.TracedRun(0.0, (_call("one", Ask(text="b"), Note(note="m")),)),
        bootstrap.TracedRun(1.0, (good,)),
    ]
    found = bootstrap.demos_of(runs)
    assert list(found) == ["one"]
    (demo,) = found["one"]
    assert (demo.input["text"], demo.reasoning, demo.bootstrapped) == ("a", "so", True)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(0.1, 10), st.floats(-5, 5))
def test_acceptance_does_not_depend_on_the_scale_of_the_metric(scores: list[float], scale: float, shift: float) -> None:
    low, high = min(scores), max(scores)
    if high - low < 1e-6:
        return
    first = [score >= bootstrap.threshold(scores) for score in scores]
    moved = [score * scale + shift for score in scores]
    second = [score >= bootstrap.threshold(moved) for score in moved]
    edge = [abs((score - low) / (high - low) - bootstrap.ACCEPTED_SHARE) < 1e-6 for score in scores]
    assert all(a == b or near for a, b, near in zip(first, second, edge, strict=True))
    assert first[scores.index(high)]


def test_nothing_is_accepted_when_every_run_scores_zero() -> None:
    assert bootstrap.accepted([bootstrap.TracedRun(0.0, ())] * 3) == []
    assert len(bootstrap.accepted([bootstrap.TracedRun(1.0, ())] * 3)) == 3


def test_bootstrapped_groups_hold_one_member_a_module() -> None:
    pools = {"one": demos(12), "two": demos(3)}
    groups = bootstrap.bootstrapped({"one": "one.demos", "two": "two.demos", "x": "x.demos"}, pools, seed=0)
    for group in groups:
        names = [proposal.variable for proposal in group]
        assert len(set(names)) == len(names)
        assert "x.demos" not in names
    assert any(isinstance(proposal.member, Nearest) for group in groups for proposal in group)


def test_grounded_instructions_name_labels_and_keep_placeholders() -> None:
    found = instructions.grounded("p.instruction", "Sort it in a {style} way", Ask, Kind)
    texts = [str(proposal.member) for proposal in found]
    assert texts
    assert all("{style}" in text for text in texts)
    assert any("a, b, c" in text for text in texts)
    assert any("what the customer wrote" in text for text in texts)
    plain = instructions.grounded("p.instruction", "Sort it", Ask, Kind)
    assert len({proposal.digest for proposal in plain}) == len(plain) > len(found)


def test_written_instructions_are_refused_with_a_reason() -> None:
    current = "Answer in {style} and say why"
    for text, word in (
        ("  ", "empty"),
        ("x {style} " * 200, "characters"),
        ("Just answer", "placeholder"),
        ("In {style} with {extra}", "placeholder"),
        (current, "says what"),
    ):
        reason = instructions.refusal(text, current, [])
        assert reason is not None
        assert word in reason
    assert instructions.refusal("Use {style}.", current, []) is None
    assert instructions.refusal("Use {style}.", current, ["Use {style}."]) is not None


def test_request_for_an_instruction_shows_fields_and_examples() -> None:
    asked = instructions.request("Sort it", Ask, Kind, demos(5), "be short")
    assert "one of a, b, c" in asked.fields
    assert asked.examples.count("=>") == 3
    assert instructions.writer().input_schema is instructions.InstructionRequest
