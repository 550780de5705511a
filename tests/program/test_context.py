from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import dspex as dx
from dspex.errors import UsageError
from dspex.program.context import bounded, current, resolve_lm, using
from tests.program.schemas import Answer, Ask


def test_the_inner_choice_of_a_model_wins_and_the_outer_comes_back() -> None:
    with dx.using(lm="openai/outer"):
        with dx.using(lm="openai/inner"):
            assert resolve_lm(None) == "openai/inner"
        assert resolve_lm(None) == "openai/outer"
        assert resolve_lm("openai/explicit") == "openai/explicit"
    assert current().lm is None


def test_settings_come_after_the_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DSPEX_LM", raising=False)
    with pytest.raises(dx.NoLMError):
        resolve_lm(None)
    monkeypatch.setenv("DSPEX_LM", "openai/environment")
    assert resolve_lm(None) == "openai/environment"
    with dx.using(lm="openai/context"):
        assert resolve_lm(None) == "openai/context"


def test_each_place_of_a_model_wins_over_those_after_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dspex]\nlm = "openai/project"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPEX_LM", "openai/environment")

    class Free(dx.Program[Ask, Answer]):
        own = dx.Predict(Ask, Answer, lm="openai/module")
        free = dx.Predict(Ask, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.free(x)

    class Named(Free):
        lm = "openai/program"

    def chosen(program: dx.Program[Ask, Answer], path: str) -> object:
        return resolve_lm(program.modules()[path].settings.lm)

    with dx.using(lm="openai/context"):
        assert chosen(Named(), "own") == "openai/module"
        assert chosen(Named(), "free") == "openai/program"
        assert chosen(Free(), "free") == "openai/context"
    assert chosen(Free(), "free") == "openai/environment"
    monkeypatch.delenv("DSPEX_LM")
    assert chosen(Free(), "free") == "openai/project"


def test_contexts_of_concurrent_tasks_do_not_mix() -> None:
    async def chosen(name: str) -> object:
        with dx.using(lm=name), dx.trace() as trace:
            await asyncio.sleep(0)
            assert current().traces == (trace,)
            return resolve_lm(None)

    async def all_of_them() -> list[object]:
        return list(await asyncio.gather(*(chosen(f"openai/{n}") for n in range(8))))

    assert asyncio.run(all_of_them()) == [f"openai/{n}" for n in range(8)]
    assert current().traces == ()


def test_an_earlier_deadline_outside_still_holds() -> None:
    with bounded(deadline=5.0), bounded(deadline=9.0), bounded():
        assert current().deadline == 5.0
    assert current().deadline is None


def test_contexts_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        current().rollout = 3
    assert current().replace(rollout=3).rollout == 3


def test_traces_nest_and_have_names_of_their_own() -> None:
    with dx.trace() as outer, dx.trace() as inner:
        assert current().traces == (outer, inner)
    assert outer.id != inner.id
    assert (outer.attempts, outer.usd, outer.cached, outer.usage.total_tokens) == (0, 0.0, 0, 0)


@pytest.mark.parametrize("given", [{"priority": "high"}, {"priority": 1.5}, {"priority": True}, {"tenant": 3}])
def test_a_priority_or_tenant_of_another_type_is_refused_where_it_is_given(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="DX8156"), using(**given):
        pass
