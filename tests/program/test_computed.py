from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspex as dx
from dspex.program.rules import Compare, Const, Ref
from dspex.stores.memory import MemoryEventStore
from dspex.study import loop
from dspex.testing import ScriptedLM
from tests.program.schemas import Answer, Ask


def title(style: str, k: int) -> str:
    return f"{style} {k}"


def label(branch: str, k: int) -> str:
    return f"{branch}{k}"


def same(value: object) -> object:
    return value


class Bot(dx.Program[Ask, Answer]):
    k: dx.Var[int] = dx.var(2, lo=1, hi=8)
    style: dx.Var[str] = dx.var("terse", choices=("terse", "detailed"))
    shown: dx.Var[int] = dx.computed(k * 2)
    more = dx.computed(shown + k)
    heading = dx.computed(title, style, k)
    solver = dx.select(
        a=dx.Predict(Ask, Answer, instruction="{heading}, {more}", demos_k=shown), b=dx.Predict(Ask, Answer)
    )
    which = dx.computed(label, solver, k)
    rules = [more <= 20]

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solver(x)


class Crew(dx.Program[Ask, Answer]):
    one = Bot()
    two = Bot()

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.two(x)


def test_the_class_has_the_variable_and_the_instance_the_value() -> None:
    assert isinstance(Bot.shown, dx.Computed)
    assert (Bot.more.of, Bot.heading.of, Bot.which.of) == (("k", "shown"), ("style", "k"), ("solver", "k"))
    assert str(Bot.more.expr) == "(shown + k)"
    bot = Bot()
    assert (bot.shown, bot.more, bot.heading, bot.which) == (4, 6, "terse 2", "a2")
    assert {"k": 2, "shown": 4, "more": 6, "heading": "terse 2", "which": "a2"}.items() <= bot.config.items()


def test_bind_computes_anew_everywhere() -> None:
    bot = Bot().bind(k=5, solver="b")
    assert (bot.shown, bot.more, bot.heading, bot.which) == (10, 15, "terse 5", "b5")
    assert bot.config["more"] == 15
    settings = bot.bind(solver="a").modules()["solver.a"].settings
    assert (settings.demos_k, settings.instruction) == (10, "terse 5, 15")
    crew = Crew().bind({"two.k": 3})
    assert (crew.one.shown, crew.two.shown) == (4, 6)
    assert (crew.config["one.more"], crew.config["two.more"], crew.config["two.which"]) == (6, 9, "a3")
    assert crew.space.variables["two.more"].of == ("two.k", "two.shown")  # type: ignore[attr-defined]  # pyright: ignore
    grown = bot.bind({"solver.a.instruction": "{heading}!", "k": 1, "solver": "a"})
    assert grown.modules()["solver.a"].settings.instruction == "terse 1!"
    assert (grown.shown, grown.config["shown"]) == (2, 2)


def test_a_computed_variable_is_never_set() -> None:
    bot = Bot()
    for use in (lambda: bot.bind(shown=3), lambda: bot.space.validate({"k": 3, "shown": 5})):
        with pytest.raises(dx.ProgramError, match=r"DX1406.*computed from k"):
            use()
    with pytest.raises(dx.ProgramError, match="DX1406"):
        bot.space.freeze(shown=4)
    with pytest.raises(dx.ProgramError, match="DX1501"):
        bot.shown = 3  # type: ignore[assignment]  # pyright: ignore
    assert bot.bind(bot.config) == bot
    other = bot.bind(k=4)
    assert bot.bind(other.config) == other
    assert bot.space.validate(other.config) == other.config


def test_rules_and_conditions_may_mention_one() -> None:
    with pytest.raises(dx.ProgramError, match="DX1403"):
        Bot().bind(k=7)
    k = dx.Int("k", 1, 8, default=1)
    double = dx.computed(k * 2, name="double")
    extra = dx.Bool("extra", when=double >= 8)
    follows = dx.computed(lambda flag: not flag, extra, name="follows")
    space = dx.Space([follows, extra, double, k])
    assert space.order.index("k") < space.order.index("double") < space.order.index("extra")
    assert space.active(space.default()) == {"k", "double"}
    assert space.active(space.validate({"k": 4})) == {"k", "double", "extra", "follows"}
    assert space.validate({"k": 4}) == {"k": 4, "double": 8, "extra": False, "follows": True}


@given(st.integers(1, 6), st.sampled_from(["terse", "detailed"]), st.sampled_from("ab"))
def test_everything_agrees_on_the_values(k: int, style: str, solver: str) -> None:
    bot = Bot()
    values: dict[str, object] = {"k": k, "style": style, "solver": solver}
    bound = bot.bind(values)
    assert bound.config == bot.space.validate(values) == bot.space.rebound(bot.config, values)
    assert bound.config == bot.space.freeze(values).default()
    assert bot.space.identity(bound.config) == bot.space.identity({**bound.config, "more": 0})
    assert pickle.loads(pickle.dumps(bound.config)) == bound.config


def test_identity_knows_the_function_and_not_the_value() -> None:
    def other(style: str, k: int) -> str:
        return f"{style} {k}!"

    def scaled(by: int) -> Any:
        def times(style: str, k: int) -> str:
            return f"{style} {k * by}"

        return times

    def make(function: Any) -> dx.Program[Ask, Answer]:
        class Local(dx.Program[Ask, Answer]):
            k: dx.Var[int] = dx.var(2, lo=1, hi=8)
            style: dx.Var[str] = dx.var("a", choices=("a", "b"))
            heading = dx.computed(function, style, k)
            answer = dx.Predict(Ask, Answer)

            async def __call__(self, x: Ask, /) -> Answer:
                return await self.answer(x)

        return Local()

    assert make(title).identity() == make(title).identity() != make(other).identity()
    assert make(scaled(2)).identity() == make(scaled(2)).identity() != make(scaled(3)).identity()


def test_a_subclass_that_overrides_a_source_rebinds_what_is_computed() -> None:
    class Wide(Bot):
        k: dx.Var[int] = dx.var(4, lo=1, hi=16)

    assert (Wide().shown, Wide().heading) == (8, "terse 4")


def test_cycles_print_the_cycle() -> None:
    with pytest.raises(dx.ProgramError, match=r"DX1216.*(a -> c -> b -> a|b -> a -> c -> b|c -> b -> a -> c)"):

        class Cyclic(dx.Program[Ask, Answer]):  # pyright: ignore[reportUnusedClass]
            k: dx.Var[int] = dx.var(2, lo=1, hi=8)
            a = dx.computed(same, "c")
            b = dx.computed(a + 1)
            c = dx.computed(b + k)

            async def __call__(self, x: Ask, /) -> Answer:
                raise NotImplementedError

    class Base(Bot):
        pass

    with pytest.raises(dx.ProgramError, match=r"DX1216.*(k -> shown -> k|shown -> k -> shown)"):

        class Over(Base):  # pyright: ignore[reportUnusedClass]
            k = dx.computed(Bot.shown * 2)  # type: ignore[assignment]  # pyright: ignore

    own = dx.computed(same, "own", name="own")
    with pytest.raises(dx.ProgramError, match=r"DX1216.*own -> own"):
        dx.Space([own])
    k = dx.Int("k", 1, 8, when=Compare("==", Ref("double"), Const(2)))
    with pytest.raises(dx.ProgramError, match=r"DX1216.*k -> double -> k"):
        dx.Space([k, dx.computed(k * 2, name="double")])


def test_unsound_definitions_are_refused() -> None:
    k = dx.Int("k", 1, 8)
    wrong: list[Any] = [
        lambda: dx.computed(3),  # type: ignore[call-overload]  # pyright: ignore
        lambda: dx.computed(title),
        lambda: dx.computed(title, 3),  # type: ignore[call-overload]  # pyright: ignore
        lambda: dx.computed(k * 2, k),  # type: ignore[call-overload]  # pyright: ignore
        lambda: dx.computed(Const(3)),
    ]
    for make in wrong:
        with pytest.raises(dx.ProgramError, match="DX1219") as caught:
            make()
        assert "test_computed.py:" in str(caught.value.where)
    with pytest.raises(dx.ProgramError, match=r"DX1303.*computed Variable 'b'.*'nowhere'"):
        dx.Space([dx.computed(title, "nowhere", k, name="b"), k])
    with pytest.raises(dx.ProgramError, match=r"DX1303.*'nowhere'"):

        class Stray(Bot):  # pyright: ignore[reportUnusedClass]
            stray = dx.computed(same, "nowhere")

    with pytest.raises(dx.ProgramError, match="DX1213"):
        dx.Space([k, dx.computed(k * 2)])


def test_a_function_that_raises_is_a_coded_error_with_the_values() -> None:
    def inverse(k: int) -> float:
        return 1 / (k - 3)

    k = dx.Int("k", 1, 8, default=1)
    space = dx.Space([k, dx.computed(inverse, k, name="inverse")])
    assert space.default()["inverse"] == -0.5
    with pytest.raises(dx.ProgramError, match=r"DX1218.*ZeroDivisionError.*k=3") as caught:
        space.validate({"k": 3})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_module_may_be_given_one_that_no_program_declares() -> None:
    k = dx.Int("shots", 0, 4, default=1)
    module = dx.Predict(Ask, Answer, demos_k=k, max_tokens=dx.computed(k * 100 + 12, name="room"))
    assert module.settings.max_tokens == 112
    bound = module.bind({"predict.shots": 4})
    assert (bound.settings.max_tokens, bound.config["predict.room"]) == (412, 412)

    class Owner(dx.Program[Ask, Answer]):
        width: dx.Var[int] = dx.var(3, lo=1, hi=9)
        answer = dx.Predict(Ask, Answer, max_tokens=dx.computed(width * 10, name="room"), instruction="{room}")

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.answer(x)

    owner = Owner().bind(width=5)
    assert owner.config["answer.room"] == 50
    assert (owner.answer.settings.max_tokens, owner.answer.settings.instruction) == (50, "50")
    assert owner.bind(owner.config) == owner


def test_a_program_with_one_runs() -> None:
    prompts: list[str] = []

    def answer(request: Any) -> dict[str, object]:
        prompts.append(str(request))
        return {"answer": "yes"}

    assert Bot().bind(k=3).with_lm(ScriptedLM(answer)).run(Ask(question="?")).answer == "yes"
    assert "terse 3, 9" in prompts[0]


def pair(branch: str) -> tuple[str, str]:
    return branch, branch


class Search(dx.Program[Ask, Answer]):
    k: dx.Var[int] = dx.var(1, lo=0, hi=4)
    shown: dx.Var[int] = dx.computed(k * 2)
    solver = dx.select(
        a=dx.Predict(Ask, Answer, demos_k=shown), b=dx.Predict(Ask, Answer, instruction="Say yes.", demos_k=shown)
    )
    which = dx.computed(pair, solver)
    rules = [shown <= 6]

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solver(x)


def test_samples_and_searches_keep_what_is_computed() -> None:
    space = Search().space
    for config in space.sample(50, seed=1):
        assert config["shown"] == 2 * config["k"] <= 6  # type: ignore[operator]  # pyright: ignore
        assert config["which"] == (config["solver"], config["solver"])
        assert space.validate(config) == config
    store = MemoryEventStore()
    lm = ScriptedLM(lambda request: {"answer": "yes" if "Say yes." in str(request) else "no"})
    data = [(Ask(question=f"{n}?"), Answer(answer="yes")) for n in range(30)]
    best = Search().optimize(
        data, maximize=dx.exact_match, budget=dx.Budget(calls=200), lm=lm, store=store, study_id="s", content="full"
    )
    assert best.config["which"] == ("b", "b")
    again = loop.resume("s", Search(), data, dx.exact_match, lm=lm, store=store)
    assert again.config == best.config
