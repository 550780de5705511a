"""`estimate`: calls, tokens and dollars of a run, before one is made.

The graph is gone through with values in place of answers: those of the examples where they are known, otherwise how
long they will be (`amounts`). Prompts are rendered as they will be sent and counted without the model's vocabulary
(`tokens`). Nothing is sent or loaded. Of Python, what is pure is run where the examples say all that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from dspex.compiler.estimate.amounts import (
    NOTHING,
    Amount,
    Known,
)
from dspex.compiler.estimate.estimates import Estimates, NodeEstimate, RunEstimate
from dspex.compiler.estimate.rehearsal import Load, Note, Rehearsal, unknown_instance
from dspex.compiler.estimate.sizing import Model
from dspex.compiler.ir.nodes import (
    Estimate,
    Graph,
)
from dspex.compiler.passes.estimate import EstimateTokens
from dspex.errors import CompileError

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.lm.model import LMLike

__all__ = ["Expected", "estimate", "estimated"]

Expected = Iterable[BaseModel] | Mapping[str, Iterable[BaseModel]]
"""Outputs of the program for the inputs, or of its modules by their paths."""


def estimate(
    compiled: Compiled[Any, Any],
    inputs: Iterable[BaseModel] | None = None,
    *,
    model: LMLike | None = None,
    expected: Expected | None = None,
) -> Estimates:
    """The estimates of a run of `compiled` under its configuration.

    Args:
        compiled: What would run.
        inputs: Examples; without them sizes come from the schemas, and a text without a bound has none.
        model: For the modules that name no model; otherwise the context's, as in a run.
        expected: Outputs of the program for the inputs, or, by path, of its modules.

    Raises:
        CompileError: DX2401 for inputs or expected outputs that do not fit.
    """
    given = None if inputs is None else _instances(inputs, compiled.input_schema, "inputs")
    if given is not None and not given:
        raise CompileError("DX2401", "inputs is empty", fix="give at least one example, or leave inputs out")
    wanted = _expected(compiled, expected, None if given is None else len(given))
    models: dict[str, Model] = {}
    passes: list[Rehearsal] = []
    for index in range(1 if given is None else len(given)):
        run = Rehearsal(compiled, model, models, {path: rows[index] for path, rows in wanted.items() if rows})
        value = Known(given[index]) if given is not None else unknown_instance(compiled.input_schema)
        run.graph(value)
        passes.append(run)
    return _gathered(compiled, passes, given is not None)


def estimated(compiled: Compiled[Any, Any], *, model: LMLike | None = None) -> Graph:
    """The graph of `compiled` with the tokens of one call of each node that its configuration runs."""
    found: dict[int, Estimate] = {}
    for node in estimate(compiled, model=model).nodes:
        sent, got = node.one, node.one_output
        # A prompt without a known bound fills the window.
        high = sent.low if sent.high is None else sent.high
        found[node.node] = Estimate((int(sent.low), int(high)), (int(got.low), int(got.high or got.low)))
    return EstimateTokens(found).run(compiled.graph)


def _instances(values: Iterable[BaseModel], schema: type[BaseModel], what: str) -> list[BaseModel]:
    found: list[BaseModel] = []
    given = cast("object", values)
    if isinstance(given, BaseModel | Mapping | str) or not isinstance(given, Iterable):
        call = "estimate([x])" if what == "inputs" else "expected=[y]"
        raise CompileError(
            "DX2401",
            f"{what} are a list of {schema.__name__}, got {given!r:.80}",
            fix=f"pass a list: {call}",
        )
    for value in cast("Iterable[object]", values):
        if isinstance(value, schema):
            found.append(value)
            continue
        fields = value.model_dump() if isinstance(value, BaseModel) else value
        try:
            found.append(schema.model_validate(fields))
        except ValueError as error:
            raise CompileError(
                "DX2401",
                f"{what} are instances of {schema.__name__}, got {value!r:.80}",
                fix=f"make them with {schema.__name__}({', '.join(name + '=…' for name in schema.model_fields)})",
            ) from error
    return found


def _expected(compiled: Compiled[Any, Any], expected: Expected | None, runs: int | None) -> dict[str, list[BaseModel]]:
    """Expected outputs by path of a module; the program's own under ``""``."""
    if expected is None:
        return {}
    rows: dict[str, list[BaseModel]] = {}
    if isinstance(expected, Mapping):
        settings = compiled.settings
        for path, values in cast("Mapping[str, Iterable[BaseModel]]", expected).items():
            if path not in settings:
                raise CompileError(
                    "DX2401",
                    f"expected names {path!r}, which is no module of {compiled.graph.name}",
                    fix=f"modules are {', '.join(settings) or '(none)'}",
                )
            rows[path] = _instances(values, settings[path].output, f"expected outputs of {path}")
    else:
        rows[""] = _instances(expected, compiled.output_schema, "expected outputs")
    for path, values in rows.items():
        if runs is None or len(values) != runs:
            raise CompileError(
                "DX2401",
                f"there are {len(values)} expected outputs{f' of {path}' if path else ''} for "
                + ("no inputs" if runs is None else f"{runs} inputs"),
                fix="give one for each input, in their order",
            )
    return rows


# --- many runs ----------------------------------------------------------------------------------


def _gathered(compiled: Compiled[Any, Any], runs: list[Rehearsal], examples: bool) -> Estimates:
    unpriced = tuple(dict.fromkeys(n.model.unpriced for run in runs for n in run.notes if n.model.unpriced))
    unknown = tuple(dict.fromkeys(reason for run in runs for reason in run.unknown))
    guessed = tuple(
        dict.fromkeys(f"{n.node.module}.{name}" for run in runs for n in run.notes for name in n.size.guessed)
    )
    each = tuple(_run_estimate(run.total) for run in runs)
    return Estimates(
        name=compiled.graph.name,
        run=_mean(each),
        runs=each if examples else (),
        nodes=_nodes(runs),
        models=tuple(dict.fromkeys(n.model.name or "(none chosen)" for run in runs for n in run.notes)),
        unpriced=unpriced,
        unknown=unknown,
        guessed=guessed,
    )


def _run_estimate(load: Load) -> RunEstimate:
    return RunEstimate(load.calls, load.input, load.output, load.usd, load.ready)


def _mean(runs: Sequence[RunEstimate]) -> RunEstimate:
    costs = [run.usd for run in runs]
    return RunEstimate(
        _spread([run.calls for run in runs]),
        _spread([run.input for run in runs]),
        _spread([run.output for run in runs]),
        None if any(cost is None for cost in costs) else _spread([cost for cost in costs if cost is not None]),
        _spread([run.depth for run in runs]),
    )


def _spread(amounts: Sequence[Amount]) -> Amount:
    """From the least to the most, with the mean of what is expected."""
    highs = [amount.high for amount in amounts]
    points = [amount.point for amount in amounts]
    return Amount(
        min(amount.low for amount in amounts),
        None if None in highs else max(high for high in highs if high is not None),
        None if None in points else sum(point for point in points if point is not None) / len(points),
    )


def _nodes(runs: list[Rehearsal]) -> tuple[NodeEstimate, ...]:
    by_node: dict[int, list[list[Note]]] = {}
    for run in runs:
        here: dict[int, list[Note]] = {}
        for note in run.notes:
            here.setdefault(note.node.id, []).append(note)
        for number, notes in here.items():
            by_node.setdefault(number, []).append(notes)
    return tuple(_node(number, groups, len(runs)) for number, groups in sorted(by_node.items()))


def _node(number: int, groups: list[list[Note]], runs: int) -> NodeEstimate:
    def total(pick: Callable[[Note], Amount]) -> Amount:
        sums = [sum((pick(note).times(note.times) for note in notes), NOTHING) for notes in groups]
        return _spread([*sums, *[NOTHING] * (runs - len(sums))])

    notes = [note for group in groups for note in group]
    first = notes[0]
    priced = all(note.size.usd is not None for note in notes)
    sent = [note.size.prompt.point for note in notes]
    whole = sum(point for point in sent if point is not None)
    static = sum(note.size.static for note in notes)
    return NodeEstimate(
        node=number,
        module=first.node.module,
        model=first.model.name,
        calls=total(lambda note: note.size.calls),
        input=total(lambda note: note.size.input),
        output=total(lambda note: note.size.output),
        usd=total(lambda note: note.size.usd or NOTHING) if priced else None,
        static=None if None in sent or not whole else min(1.0, static / whole),
        one=_spread([note.size.input for note in notes]),
        one_output=_spread([note.size.output for note in notes]),
    )
