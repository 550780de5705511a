from __future__ import annotations

import subprocess
import sys

import pydantic
import pytest

import dspex as dx

# fmt: off
DOCUMENTED = {
    "Schema", "field", "Program", "program", "infer", "Predict", "ChainOfThought", "Module", "var", "Var",
    "Float", "Int", "Bool", "Choice", "Text", "Demos", "select", "Demo", "DemoSet", "Nearest", "metric", "Metric",
    "Run", "Score", "using", "trace", "Trace", "ledger", "Ledger", "LM", "Endpoint", "Hedge", "Price", "FREE", "Budget",
    "BudgetAccount", "load", "load_artifact", "Dataset", "optimize", "optimize_async", "StopToken",
    "compile", "Space", "exact_match", "f1", "errors", "Probability", "Confidence", "CostUSD", "LatencySeconds",
    "ApiKey", "not_both", "one_of", "Rule", "__version__", "parallel", "Parallel", "fallback", "Fallback", "race",
    "Race", "vote", "Vote", "when", "When", "cond", "map", "op", "tool", "Tool", "computed", "Computed",
    "Part", "Stream", "embed", "embed_async", "Status", "status", "evaluate", "evaluate_async", "Evaluation", "Batches",
}
# fmt: on


def test_all_lists_the_documented_names_and_each_can_be_loaded() -> None:
    assert set(dx.__all__) == {*DOCUMENTED, *(set(dx.errors.__all__) - {"Sent"})}
    for name in dx.__all__:
        assert getattr(dx, name) is not None
    with pytest.raises(AttributeError):
        _ = dx.nothing  # type: ignore[attr-defined]  # pyright: ignore


def test_defining_a_program_loads_nothing_heavy() -> None:
    script = """
import sys
import dspex as dx
class Ask(dx.Schema):
    question: str
class Bot(dx.Program[Ask, Ask]):
    k: dx.Var[int] = dx.var(4, lo=1, hi=8)
    answer = dx.Predict(Ask, Ask)
    async def __call__(self, x: Ask, /) -> Ask:
        return await self.answer(x)
Bot()
heavy = {"numpy", "numba", "httpx", "aiohttp", "rich", "click", "sqlite3", "dspex.executor", "dspex.compiler"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_decorator_and_the_package_share_a_name() -> None:
    import dspex.program as package

    assert callable(package)
    assert package is dx.program  # type: ignore[comparison-overlap]
    assert package.__name__ == "dspex.program"


def test_native_types_say_the_rule_that_a_value_breaks() -> None:
    class Bill(dx.Schema):
        chance: dx.Probability
        cost: dx.CostUSD
        key: dx.ApiKey = dx.ApiKey("secret-1")
        size: str = dx.field("s", choices=("s", "m"))

    bill = Bill(chance=0.5, cost=1.0)
    assert "secret-1" not in repr(bill) + bill.model_dump_json() + str(bill.key)
    assert bill.key.get_secret_value() == "secret-1"
    for wrong in ({"chance": 1.5}, {"chance": float("nan")}, {"cost": -1.0}, {"size": "xl"}, {"more": 1}):
        with pytest.raises(pydantic.ValidationError) as caught:
            Bill(**{"chance": 0.5, "cost": 1.0, **wrong})  # type: ignore[arg-type]  # pyright: ignore
        assert next(iter(wrong)) in str(caught.value)
    with pytest.raises(pydantic.ValidationError):
        bill.cost = 2.0  # type: ignore[misc]  # pyright: ignore
    assert Bill.model_json_schema()["properties"]["size"]["enum"] == ["s", "m"]
