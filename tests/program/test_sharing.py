from __future__ import annotations

import pickle
from typing import Any

import pytest

import dspex as dx
from tests.program.schemas import Answer, Ask

# A class statement cannot put a local `k` under the name `k`.
new_class: Any = type(dx.Program)


class Answers(dx.Program[Ask, Answer]):
    answer = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.answer(x)


def test_a_variable_in_two_programs_is_refused_with_both_places() -> None:
    k = dx.Int("k", 1, 8)

    body: dict[str, Any] = {"k": k}
    first = new_class("First", (Answers,), dict(body))
    with pytest.raises(dx.ProgramError, match=r"DX1217.*two programs: First at .*, and Second at") as caught:
        new_class("Second", (Answers,), dict(body))
    assert caught.value.message.count("test_sharing.py:") == 2
    # A subclass inherits it, and may repeat it.
    assert type(first)("Sub", (first,), dict(body))().k == k.default

    class Mine(Answers):
        n: dx.Var[int] = dx.var(2, lo=1, hi=3)

    with pytest.raises(dx.ProgramError, match="DX1217"):

        class Theirs(Answers):  # pyright: ignore[reportUnusedClass]
            n = Mine.n


def test_a_class_that_is_made_again_is_the_same_owner() -> None:
    k = dx.Int("k", 1, 8)

    def make() -> Any:
        return new_class("Cell", (Answers,), {"k": k})

    assert make()().k == make()().k


def test_a_variable_that_two_modules_own_is_refused() -> None:
    warm = dx.Float("warm", 0.0, 1.0)

    class Twice(dx.Program[Ask, Answer]):
        a = dx.Predict(Ask, Answer, temperature=warm)
        b = dx.Predict(Ask, Answer, temperature=warm)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.b(await self.a(x) and x)

    with pytest.raises(dx.ProgramError, match=r"DX1217.*a.warm and b.warm") as caught:
        _ = Twice().config
    assert "test_sharing.py:" in str(caught.value.where)

    class Declared(dx.Program[Ask, Answer]):
        warm: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
        a = dx.Predict(Ask, Answer, temperature=warm)
        b = dx.Predict(Ask, Answer, temperature=warm)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.b(await self.a(x) and x)

    bound = Declared().bind(warm=0.25)
    assert [module.settings.temperature for module in bound.modules().values()] == [0.25, 0.25]


def test_two_instances_of_one_program_are_no_sharing() -> None:
    warm = dx.Float("warm", 0.0, 1.0, default=0.5)

    class One(dx.Program[Ask, Answer]):
        inner = dx.Predict(Ask, Answer, temperature=warm)

        def __init__(self) -> None:
            self.later = dx.Predict(Ask, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.inner(x)

    both = One() >> Answers2() >> One()
    assert both.bind({"step1.inner.warm": 0.0}).config["step3.inner.warm"] == 0.5


class Answers2(dx.Program[Answer, Ask]):
    async def __call__(self, x: Answer, /) -> Ask:
        return Ask(question=x.answer)


def test_two_variables_of_one_name_in_a_module_are_refused() -> None:
    module = dx.Predict(Ask, Answer, temperature=dx.Float("t", 0.0, 1.0), max_tokens=dx.Int("t", 1, 9))
    with pytest.raises(dx.ProgramError, match="DX1405"):
        module.variables()
    with pytest.raises(dx.ProgramError, match="DX1405"):
        dx.Predict(Ask, Answer, temperature=dx.Float("format", 0.0, 1.0)).variables()

    class Owner(Answers):
        k: dx.Var[int] = dx.var(2, lo=1, hi=8)
        other = dx.Predict(Ask, Answer, demos_k=dx.Int("k", 0, 3))

    with pytest.raises(dx.ProgramError, match=r"DX1405.*defined at .*test_sharing.py:") as caught:
        Owner()
    assert "test_sharing.py:" in str(caught.value.where)


class Kept(Answers):
    k: dx.Var[int] = dx.var(2, lo=1, hi=8)
    answer = dx.Predict(Ask, Answer, demos_k=k)


class Holder(Answers):
    def __init__(self, inner: Kept) -> None:
        self.inner = inner


def test_pickled_programs_still_know_their_variables() -> None:
    back = pickle.loads(pickle.dumps(Kept().bind(k=3)))
    assert Holder(back).config["inner.k"] == 3


def test_a_program_of_ten_thousand_variables_works() -> None:
    many: dict[str, Any] = {f"x{number}": dx.Float(f"x{number}", 0, 1) for number in range(10_000)}
    big = new_class("Big", (Answers,), many)
    program = big()
    assert len(program.space) == 10_003
    bound = program.bind(x9999=0.25)
    assert (bound.x9999, bound.config["x9999"], bound.x0) == (0.25, 0.25, 0.5)
