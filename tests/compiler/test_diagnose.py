"""What is found in a program before a call is made."""

from __future__ import annotations

from typing import Any, Literal

import pytest

import dspex as dx
from dspex.compiler.diagnose import Diagnostic, of_error
from dspex.lm.types import Capabilities


def model(name: str, window: int | None) -> dx.LM:
    """A model whose context window is known."""
    capabilities = Capabilities(context_tokens=window)
    return dx.LM(f"openai/{name}", base_url="http://localhost:9/v1", price=dx.Price(1, 1), capabilities=capabilities)


SMALL, LARGE = model("small", 60), model("large", 9000)
LONG = "Consider every word of the question with care. " * 12


class Ask(dx.Schema):
    question: str


class Styled(dx.Schema):
    question: str
    style: str


class Answer(dx.Schema):
    answer: str


def codes(program: dx.Program[Any, Any]) -> list[tuple[str, str]]:
    return [(found.severity, found.code) for found in dx.compile(program).diagnostics]


class Plain(dx.Program[Ask, Answer]):
    ask = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.ask(x)


def test_nothing_is_found_in_a_sound_program() -> None:
    assert codes(Plain()) == []


def test_a_prompt_beyond_every_window_is_an_error() -> None:
    program = dx.Predict(Ask, Answer, instruction=LONG)
    with dx.using(lm=SMALL):
        (found,) = dx.compile(program).diagnostics
    assert (found.severity, found.code) == ("error", "DX2402")
    assert "openai/small" in found.message
    assert "60" in found.message
    assert found.fix is not None


def test_a_prompt_beyond_every_window_that_the_program_names_does_not_compile() -> None:
    with pytest.raises(dx.CompileError) as refused:
        dx.compile(dx.Predict(Ask, Answer, instruction=LONG, lm=[SMALL, model("tiny", 20)]))
    assert refused.value.code == "DX2402"
    assert refused.value.where
    assert refused.value.fix


def test_one_model_with_a_larger_window_is_enough() -> None:
    assert codes(dx.Predict(Ask, Answer, instruction=LONG, lm=[SMALL, LARGE])) == []


def test_a_window_that_is_not_known_holds_everything() -> None:
    assert codes(dx.Predict(Ask, Answer, instruction=LONG, lm=[SMALL, model("other", None)])) == []


def test_a_prompt_near_the_window_is_a_warning() -> None:
    program = dx.Predict(Ask, Answer, instruction="Answer briefly.", max_tokens=40, lm=SMALL)
    assert codes(program) == [("warning", "DX2403")]


def test_rules_that_always_hold_are_a_warning() -> None:
    class Ruled(Plain):
        k: dx.Var[int] = dx.var(2, lo=1, hi=4)
        ask = dx.Predict(Ask, Answer, demos_k=k, demos=[dx.Demo({"question": "a"}, {"answer": "b"})])
        rules = [k <= 9]

    assert codes(Ruled()) == [("warning", "DX2114")]


def test_opaque_programs_are_told_with_their_remedy() -> None:
    class Looping(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            answer = Answer(answer="")
            while not answer.answer:
                answer = await self.ask(x)
            return answer

    (found,) = dx.compile(Looping()).diagnostics
    assert (found.severity, found.code) == ("info", "DX2404")
    assert "test_diagnose.py:" in (found.where or "")
    assert found.fix


def test_a_static_field_after_a_changing_one_is_told() -> None:
    class Late(dx.Program[Ask, Answer]):
        style: dx.Var[Literal["terse", "warm"]] = dx.var("terse")
        ask = dx.Predict(Styled, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.ask(Styled(question=x.question, style=self.style))

    (found,) = dx.compile(Late()).diagnostics
    assert (found.severity, found.code) == ("info", "DX2405")
    assert "declare style before question" in (found.fix or "")


def test_a_count_over_no_demonstrations_is_told() -> None:
    class Counted(Plain):
        k: dx.Var[int] = dx.var(2, lo=1, hi=4)
        ask = dx.Predict(Ask, Answer, demos_k=k)

    assert codes(Counted()) == [("info", "DX2406")]


def test_a_variable_that_nothing_reads_is_a_warning() -> None:
    class Unread(Plain):
        k: dx.Var[int] = dx.var(2, lo=1, hi=4)

    (found,) = dx.compile(Unread()).diagnostics
    assert (found.severity, found.code) == ("warning", "DX2407")
    assert found.message.endswith(" k")


def test_a_module_that_nothing_calls_is_one_warning() -> None:
    class Spare(Plain):
        spare = dx.Predict(Ask, Answer)

    (found,) = dx.compile(Spare()).diagnostics
    assert (found.severity, found.code) == ("warning", "DX2408")
    assert "spare" in found.message


def test_a_variable_of_one_value_is_not_unread() -> None:
    class Single(Plain):
        k: dx.Var[int] = dx.var(2, lo=2, hi=2)
        ask = dx.Predict(Ask, Answer, demos_k=k, demos=[dx.Demo({"question": "a"}, {"answer": "b"})])

    assert codes(Single()) == []


def test_variables_in_instructions_rules_and_conditions_are_read() -> None:
    class Read(Plain):
        tone: dx.Var[Literal["terse", "warm"]] = dx.var("terse")
        mood: dx.Var[Literal["calm", "keen"]] = dx.var("calm")
        ask = dx.Predict(Ask, Answer, instruction="Be {tone}.")
        rules = [mood.is_("keen").implies(tone.is_("warm"))]

    assert codes(Read()) == []


def test_findings_print_like_errors() -> None:
    found = of_error(dx.CompileError("DX2104", "rule can never hold", where="bot.py:3", fix="drop it"))
    assert str(found) == "error DX2104 rule can never hold\n  at bot.py:3\n  fix: drop it"
    assert found.as_json() == {
        "severity": "error",
        "code": "DX2104",
        "message": "rule can never hold",
        "where": "bot.py:3",
        "fix": "drop it",
    }
    assert str(Diagnostic("info", "DX2404", "so")) == "info DX2404 so"


@pytest.mark.parametrize("bound", [{"format": "chat"}, {"format": "completion"}])
def test_windows_are_looked_at_in_every_format(bound: dict[str, object]) -> None:
    compiled = dx.compile(dx.Predict(Ask, Answer, instruction=LONG))
    name = next(name for name in compiled.config if name.endswith("format"))
    with dx.using(lm=SMALL):
        assert [found.code for found in compiled.bind({name: bound["format"]}).diagnostics] == ["DX2402"]
