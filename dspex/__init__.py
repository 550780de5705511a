"""dspex compiles programs of language-model calls, optimizes any of their parameters, and runs them in production.

Names are loaded at their first use (PEP 562): importing this package loads no part that is not needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex import errors
    from dspex._version import __version__
    from dspex.compiler import compile
    from dspex.compiler.artifact.loading import load_artifact
    from dspex.errors import (
        BudgetExceeded,
        CallTimeout,
        CompileError,
        ConnectError,
        CoreError,
        DataError,
        DspexError,
        LMError,
        LocalModelError,
        MetricError,
        NoLMError,
        OutputError,
        ProgramError,
        RateLimited,
        RequestRejected,
        ResponseError,
        ResumeRefused,
        ServerError,
        StudyError,
        UsageError,
    )
    from dspex.evaluation.dataset import Dataset, load
    from dspex.evaluation.evaluation import Evaluation, evaluate, evaluate_async
    from dspex.evaluation.metrics import exact_match, f1
    from dspex.executor.batches import Batches
    from dspex.executor.budget import BudgetAccount
    from dspex.executor.embedding import embed, embed_async
    from dspex.executor.live import Stream
    from dspex.executor.status import Status, status
    from dspex.lm.model import LM, Endpoint, Hedge
    from dspex.lm.spend import Budget
    from dspex.lm.types import FREE, Price
    from dspex.program.computed import Computed, computed
    from dspex.program.context import ledger, trace, using
    from dspex.program.declare import var
    from dspex.program.demos import Demo, DemoSet, Nearest
    from dspex.program.flow import Fallback, Parallel, Race, Vote, When, cond, fallback, map, parallel, race, vote, when
    from dspex.program.function import infer, program
    from dspex.program.ledger import Ledger
    from dspex.program.metric import Metric, Run, Score, metric
    from dspex.program.modules import ChainOfThought, Module, Predict
    from dspex.program.operations import op
    from dspex.program.parts import Part
    from dspex.program.program import Program
    from dspex.program.rules import Rule, not_both, one_of
    from dspex.program.schema import Schema, field
    from dspex.program.select import select
    from dspex.program.space import Space
    from dspex.program.tools import Tool, tool
    from dspex.program.trace import Trace
    from dspex.program.types import ApiKey, Confidence, CostUSD, LatencySeconds, Probability
    from dspex.program.variables import Bool, Choice, Demos, Float, Int, Text, Var
    from dspex.study.loop import optimize, optimize_async
    from dspex.study.stop import StopToken

_HOMES = {
    "dspex._version": "__version__",
    "dspex.compiler": "compile load_artifact",
    "dspex.errors": (
        "BudgetExceeded CallTimeout CompileError ConnectError CoreError DataError DspexError LMError LocalModelError "
        "MetricError NoLMError OutputError ProgramError RateLimited RequestRejected ResponseError ResumeRefused "
        "ServerError StudyError UsageError"
    ),
    "dspex.evaluation.dataset": "Dataset load",
    "dspex.evaluation.evaluation": "Evaluation evaluate evaluate_async",
    "dspex.evaluation.metrics": "exact_match f1",
    "dspex.executor.batches": "Batches",
    "dspex.executor.budget": "BudgetAccount",
    "dspex.executor.embedding": "embed embed_async",
    "dspex.executor.live": "Stream",
    "dspex.executor.status": "Status status",
    "dspex.lm.model": "LM Endpoint Hedge",
    "dspex.lm.spend": "Budget",
    "dspex.lm.types": "FREE Price",
    "dspex.program.computed": "Computed computed",
    "dspex.program.context": "ledger trace using",
    "dspex.program.declare": "var",
    "dspex.program.demos": "Demo DemoSet Nearest",
    "dspex.program.flow": "Fallback Parallel Race Vote When cond fallback map parallel race vote when",
    "dspex.program.function": "infer",
    "dspex.program.ledger": "Ledger",
    "dspex.program.metric": "Metric Run Score metric",
    "dspex.program.modules": "ChainOfThought Module Predict",
    "dspex.program.operations": "op",
    "dspex.program.parts": "Part",
    "dspex.program.program": "Program",
    "dspex.program.rules": "Rule not_both one_of",
    "dspex.program.schema": "Schema field",
    "dspex.program.select": "select",
    "dspex.program.space": "Space",
    "dspex.program.tools": "Tool tool",
    "dspex.program.trace": "Trace",
    "dspex.program.types": "ApiKey Confidence CostUSD LatencySeconds Probability",
    "dspex.program.variables": "Bool Choice Demos Float Int Text Var",
    "dspex.study.loop": "optimize optimize_async",
    "dspex.study.stop": "StopToken",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "FREE",
    "LM",
    "ApiKey",
    "Batches",
    "Bool",
    "Budget",
    "BudgetAccount",
    "BudgetExceeded",
    "CallTimeout",
    "ChainOfThought",
    "Choice",
    "CompileError",
    "Computed",
    "Confidence",
    "ConnectError",
    "CoreError",
    "CostUSD",
    "DataError",
    "Dataset",
    "Demo",
    "DemoSet",
    "Demos",
    "DspexError",
    "Endpoint",
    "Evaluation",
    "Fallback",
    "Float",
    "Hedge",
    "Int",
    "LMError",
    "LatencySeconds",
    "Ledger",
    "LocalModelError",
    "Metric",
    "MetricError",
    "Module",
    "Nearest",
    "NoLMError",
    "OutputError",
    "Parallel",
    "Part",
    "Predict",
    "Price",
    "Probability",
    "Program",
    "ProgramError",
    "Race",
    "RateLimited",
    "RequestRejected",
    "ResponseError",
    "ResumeRefused",
    "Rule",
    "Run",
    "Schema",
    "Score",
    "ServerError",
    "Space",
    "Status",
    "StopToken",
    "Stream",
    "StudyError",
    "Text",
    "Tool",
    "Trace",
    "UsageError",
    "Var",
    "Vote",
    "When",
    "__version__",
    "compile",
    "computed",
    "cond",
    "embed",
    "embed_async",
    "errors",
    "evaluate",
    "evaluate_async",
    "exact_match",
    "f1",
    "fallback",
    "field",
    "infer",
    "ledger",
    "load",
    "load_artifact",
    "map",
    "metric",
    "not_both",
    "one_of",
    "op",
    "optimize",
    "optimize_async",
    "parallel",
    "program",
    "race",
    "select",
    "status",
    "tool",
    "trace",
    "using",
    "var",
    "vote",
    "when",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in ("errors", "program"):
        return import_module(f"dspex.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'dspex' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
