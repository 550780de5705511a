"""What is wrong with a compiled program, or worth knowing, before a call is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from dspex.compiler.estimate.sizing import Model, model_of, static_tokens
from dspex.compiler.ir.nodes import Constant, Join, Lm, Node, Ref, Value, Variable, operands, variables_of, walk
from dspex.compiler.settings import PLACEHOLDER, named
from dspex.errors import CompileError, DspexError
from dspex.program.demos import DemoSet
from dspex.program.variables import Demos, Float, Int, Text, Var, place

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.lm.model import LMLike
    from dspex.program.modules import ModuleSettings

__all__ = ["Diagnostic", "Severity", "diagnose", "of_error", "refuse_windows"]

Severity = Literal["error", "warning", "info"]

_NEAR: Final = 0.8
"""Share of a context window from which a warning is given."""

_ORDER: Final = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A finding.

    Attributes:
        severity: "error" cannot run, "warning" is hardly meant, "info" is worth knowing.
        code: ``DXnnnn``; `dspex explain` says more.
        message: The broken rule, with values.
        where: ``file:line``, or the module's path.
        fix: What to do about it.
    """

    severity: Severity
    code: str
    message: str
    where: str | None = None
    fix: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.severity} {self.code} {self.message}"]
        if self.where:
            lines.append(f"  at {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """As plain JSON data."""
        return {
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "where": self.where,
            "fix": self.fix,
        }


def of_error(error: DspexError) -> Diagnostic:
    """The finding that an error is."""
    return Diagnostic("error", error.code, error.message, error.where, error.fix)


def diagnose(compiled: Compiled[Any, Any]) -> tuple[Diagnostic, ...]:
    """The findings on `compiled` under its configuration, errors first."""
    found = [
        *_notes(compiled),
        *_windows(compiled),
        *_opaque(compiled),
        *_static_fields(compiled),
        *_demos(compiled),
        *_unused(compiled),
    ]
    return tuple(sorted(dict.fromkeys(found), key=lambda each: _ORDER[each.severity]))


def _notes(compiled: Compiled[Any, Any]) -> Iterator[Diagnostic]:
    """What lowering saw: rules that always hold, Variables that are never active."""
    for note in compiled.params.notes:
        yield Diagnostic("warning", note.code, note.message, note.where, note.fix)


# --- context windows ----------------------------------------------------------------------------


def refuse_windows(compiled: Compiled[Any, Any]) -> None:
    """Refuses a prompt that no model which the program itself names can hold.

    Raises:
        CompileError: DX2402.
    """
    for found in _windows(compiled, named=True):
        if found.severity == "error":
            raise CompileError(found.code, found.message, where=found.where, fix=found.fix)


def _windows(compiled: Compiled[Any, Any], *, named: bool = False) -> Iterator[Diagnostic]:
    """Prompts beside the context windows of the models that may get them; `named`: those in the program alone."""
    seen: dict[int, Model | None] = {}
    for path, node in compiled.plan.calls.items():
        if named and not compiled.code.models.get(path):
            continue
        settings = compiled.settings[path]
        models = [_known(lm, seen) for lm in _candidates(compiled, node, settings)]
        windows = [
            (model, size) for model in models if model is not None and (size := model.capabilities.context_tokens)
        ]
        if not windows or len(windows) < len(models):
            # A model whose window is not known may hold any prompt.
            continue
        model, largest = max(windows, key=lambda pair: pair[1])
        static = static_tokens(settings, model)
        where = str(node.loc) if node.loc else path
        if static * (1 - model.vocabulary.margin) > largest:
            names = ", ".join(dict.fromkeys(str(other.name) for other, _ in windows))
            yield Diagnostic(
                "error",
                "DX2402",
                f"the prompt of {path} has about {static:.0f} tokens before any input; the largest context window "
                f"of its models ({names}) has {largest}",
                where,
                "shorten the instruction, show fewer demonstrations (demos_k), or use a model with a larger window",
            )
        elif static + settings.max_tokens > _NEAR * largest:
            yield Diagnostic(
                "warning",
                "DX2403",
                f"the prompt of {path} has about {static:.0f} tokens before any input, and its answer may have "
                f"{settings.max_tokens}; the context window of {model.name} has {largest}",
                where,
                "show fewer demonstrations (demos_k), lower max_tokens, or use a model with a larger window",
            )


def _candidates(compiled: Compiled[Any, Any], node: Lm, settings: ModuleSettings[Any, Any]) -> list[LMLike | None]:
    """Every model that the module may call."""
    known = compiled.code.models.get(node.module, {})
    for setting in node.settings:
        if setting.name == "lm" and isinstance(setting.value, Variable):
            variable = compiled.space.variables.get(setting.value.name)
            if variable is not None:
                return [known.get(str(name), str(name)) for name in variable.options]
    return [settings.lm]


def _known(lm: LMLike | None, seen: dict[int, Model | None]) -> Model | None:
    if id(lm) not in seen:
        try:
            model = model_of(lm)
            seen[id(lm)] = None if model.name is None else model
        except DspexError:
            # A setting of the environment, not of the program, is wrong.
            seen[id(lm)] = None
    return seen[id(lm)]


# --- the program's form -------------------------------------------------------------------------


def _opaque(compiled: Compiled[Any, Any]) -> Iterator[Diagnostic]:
    for node in compiled.graph.opaque:
        yield Diagnostic(
            "info",
            "DX2404",
            f"{node.program or compiled.graph.name} runs as plain Python: {node.reason}",
            str(node.loc) if node.loc else node.target,
            node.remedy or None,
        )


def _static_fields(compiled: Compiled[Any, Any]) -> Iterator[Diagnostic]:
    """Fields that never change, declared after fields that do: a provider's prompt cache ends before them."""
    nodes = {node.id: node for node in walk(compiled.graph.body)}
    for node in nodes.values():
        if not isinstance(node, Lm) or len(node.args) != 1:
            continue
        given = _made_of(node.args[0].value, nodes)
        if given is None:
            continue
        order = list(compiled.settings[node.module].input.model_fields)
        fixed = {s.name.removeprefix("input.") for s in node.settings if s.name.startswith("input.")}
        fixed |= {name for name, value in given.items() if isinstance(value, Constant | Variable)}
        changing = [name for name in order if name not in fixed and name in given]
        late = [name for name in order if name in fixed and changing and order.index(name) > order.index(changing[0])]
        if late:
            yield Diagnostic(
                "info",
                "DX2405",
                f"{', '.join(late)} of {node.input} is the same at every call of {node.module} and comes after "
                f"{changing[0]}, which changes; prompt caches end at the first change",
                str(node.loc) if node.loc else node.module,
                f"declare {', '.join(late)} before {changing[0]} in {node.input}",
            )


def _made_of(value: Value, nodes: dict[int, Node]) -> dict[str, Value] | None:
    """The fields of a record that is made for a call."""
    if not isinstance(value, Ref) or value.path:
        return None
    node = nodes.get(value.node)
    if not isinstance(node, Join) or node.form != "record":
        return None
    return {argument.name: argument.value for argument in node.args if argument.name is not None}


def _demos(compiled: Compiled[Any, Any]) -> Iterator[Diagnostic]:
    """Numbers of demonstrations that change nothing, because there are no demonstrations."""
    for path, node in compiled.plan.calls.items():
        values = {setting.name: setting.value for setting in node.settings}
        source, count = values.get("demos"), values.get("demos_k")
        if not isinstance(source, Variable) or not isinstance(count, Variable):
            continue
        pool = compiled.space.variables.get(source.name)
        if isinstance(pool, Demos) and all(isinstance(each, DemoSet) and not each.demos for each in pool.pool):
            yield Diagnostic(
                "info",
                "DX2406",
                f"{path} has no demonstrations, so {count.name} changes nothing yet",
                _at(pool) or (str(node.loc) if node.loc else path),
                "give demos=, or let a study propose some",
            )


def _unused(compiled: Compiled[Any, Any]) -> Iterator[Diagnostic]:
    """Variables that nothing reads: an optimizer would search them in vain."""
    graph, space = compiled.graph, compiled.space
    if compiled.plan.needs_program:
        # What plain Python reads is not known.
        return
    read: set[str] = set()
    for node in walk(graph.body):
        read.update(variables_of(node))
        if isinstance(node, Lm):
            read.update(_placeholders(compiled, node))
    for rule in space.rules:
        read.update(rule.names())
    for variable in space.variables.values():
        read.update(variable.when.names() if variable.when is not None else ())
        read.update(getattr(variable, "of", ()))
    unread = {
        name: variable
        for name, variable in space.variables.items()
        # One that has a single value stands in the graph as that value.
        if name not in read and variable.kind not in ("computed", "team") and not _settled(variable)
    }
    modules = dict.fromkeys(name.rpartition(".")[0] for name in unread if name.endswith(".instruction"))
    uncalled = [module for module in modules if module not in compiled.plan.calls]
    for module in uncalled:
        yield Diagnostic(
            "warning",
            "DX2408",
            f"nothing calls the module {module}, or what it gives is not used",
            _at(unread[f"{module}.instruction"]),
            "call it in the body, or remove it",
        )
    for name, variable in unread.items():
        if name.rpartition(".")[0] not in uncalled:
            yield Diagnostic(
                "warning",
                "DX2407",
                f"nothing reads the Variable {name}",
                _at(variable),
                "use it in a module, an instruction or the body, or remove it",
            )


def _settled(variable: Var[Any]) -> bool:
    if isinstance(variable, Float | Int):
        return variable.lo == variable.hi
    return not isinstance(variable, Text | Demos) and len(variable.options) == 1


def _placeholders(compiled: Compiled[Any, Any], node: Lm) -> Iterator[str]:
    for value in operands(node):
        texts: tuple[object, ...] = ()
        if isinstance(value, Constant):
            texts = (value.value,)
        elif isinstance(value, Variable):
            variable = compiled.space.variables.get(value.name)
            texts = variable.options if isinstance(variable, Text) else ()
        for text in texts:
            for match in PLACEHOLDER.finditer(text if isinstance(text, str) else ""):
                name = match.group(2)
                full = None if name is None else named(node, name, compiled.space)
                if full is not None:
                    yield full


def _at(variable: Var[Any]) -> str | None:
    return place(variable.at)
