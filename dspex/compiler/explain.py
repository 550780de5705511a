"""What a compiled program is, in words: graph, Variables, rules, and the prompts as they will be sent."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, cast

from dspex.catalogue import CATALOGUE
from dspex.compiler.render import prepare
from dspex.errors import LMError, UsageError
from dspex.lm.types import Capabilities, LMRequest
from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.modules import Module, ModuleSettings
from dspex.program.program import Program
from dspex.program.variables import Demos, Var

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled

__all__ = ["Explanation", "explain", "explain_code", "module_markdown", "shown_demos"]

_EVERYTHING = Capabilities(raw_prompt=True, json_schema=True, choices=True, score_choices=True)
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class OpaqueNote:
    """A program that runs as plain Python, why, and what would change that."""

    program: str
    where: str
    reason: str
    remedy: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VariableNote:
    """A Variable with its domain and value."""

    name: str
    kind: str
    domain: str
    value: object
    active: bool
    when: str | None


@dataclass(frozen=True, slots=True)
class PromptNote:
    """One module's prompt; input fields stand as ``{field}``."""

    module: str
    text: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about a compiled program that is known before a call. `str` gives the text.

    Attributes:
        name: The program.
        signature: ``Ask -> Answer``.
        hash: Structural hash of the graph.
        graph: Canonical text of the graph.
        opaque: What runs as plain Python.
        variables: Every Variable.
        rules: Every rule.
        prompts: Each module's prompt under the bound configuration.
    """

    name: str
    signature: str
    hash: str
    graph: str
    opaque: tuple[OpaqueNote, ...]
    variables: tuple[VariableNote, ...]
    rules: tuple[str, ...]
    prompts: tuple[PromptNote, ...]

    def as_json(self) -> dict[str, object]:
        """The same as plain JSON data."""
        return {
            "schema_version": 1,
            "name": self.name,
            "signature": self.signature,
            "hash": self.hash,
            "graph": self.graph,
            "opaque": [
                {
                    "program": o.program,
                    "where": o.where,
                    "reason": o.reason,
                    "remedy": o.remedy,
                    "modules": list(o.modules),
                }
                for o in self.opaque
            ],
            "variables": [
                {
                    "name": v.name,
                    "kind": v.kind,
                    "domain": v.domain,
                    "value": v.value,
                    "active": v.active,
                    "when": v.when,
                }
                for v in self.variables
            ],
            "rules": list(self.rules),
            "prompts": [{"module": p.module, "text": p.text, "note": p.note} for p in self.prompts],
        }

    def __str__(self) -> str:
        lines = [f"{self.name} : {self.signature}    graph {self.hash[:12]}", "", self.graph.rstrip()]
        if self.opaque:
            lines += ["", "Opaque: runs as plain Python, with its Variables and modules still optimized"]
            for note in self.opaque:
                lines += [
                    f"  {note.program or self.name}  at {note.where}",
                    f"    because: {note.reason}",
                    f"    remedy:  {note.remedy}",
                ]
                if note.modules:
                    lines.append(f"    modules: {', '.join(note.modules)}")
        lines += ["", f"Variables ({len(self.variables)})"]
        width = max((len(v.name) for v in self.variables), default=0)
        for v in self.variables:
            condition = f"  when {v.when}" if v.when else ""
            off = "" if v.active else "  (inactive)"
            lines.append(f"  {v.name:<{width}}  {v.domain} = {_short(v.value)}{condition}{off}")
        lines += ["", f"Rules ({len(self.rules)})", *(f"  {rule}" for rule in self.rules)]
        for prompt in self.prompts:
            lines += ["", f"Prompt of {prompt.module}" + (f"  ({prompt.note})" if prompt.note else "")]
            lines += [f"  | {line}" for line in prompt.text.splitlines()]
        return "\n".join(lines) + "\n"

    def as_html(self) -> str:
        """One page without scripts or anything from elsewhere."""
        rows = "".join(
            f"<tr{'' if v.active else ' class=off'}><td><code>{escape(v.name)}</code><td>{escape(v.domain)}"
            f"<td>{escape(_short(v.value))}<td>{escape(v.when or '')}"
            for v in self.variables
        )
        opaque = "".join(
            f"<li><code>{escape(o.program or self.name)}</code> at <code>{escape(o.where)}</code>: {escape(o.reason)}."
            f" <b>Remedy:</b> {escape(o.remedy)}"
            for o in self.opaque
        )
        prompts = "".join(
            f"<h3>{escape(p.module)}</h3>" + (f"<p>{escape(p.note)}" if p.note else "") + f"<pre>{escape(p.text)}</pre>"
            for p in self.prompts
        )
        rules = "".join(f"<li><code>{escape(rule)}</code>" for rule in self.rules) or "<li>none"
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(self.name)}</title><style>"
            "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
            "pre{background:#f5f5f5;padding:1rem;overflow:auto;white-space:pre-wrap}td,th{padding:.2rem .8rem .2rem 0;"
            "text-align:left;vertical-align:top}.off{opacity:.5}"
            "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}pre{background:#222}}</style>"
            f"<h1>{escape(self.name)}</h1><p>{escape(self.signature)} · graph <code>{self.hash[:12]}</code>"
            f"<h2>Graph</h2><pre>{escape(self.graph)}</pre>"
            + (f"<h2>Opaque</h2><ul>{opaque}</ul>" if opaque else "")
            + f"<h2>Variables</h2><table><tr><th>name<th>domain<th>value<th>when{rows}</table>"
            f"<h2>Rules</h2><ul>{rules}</ul><h2>Prompts</h2>{prompts}</html>\n"
        )


def explain(compiled: Compiled[Any, Any]) -> Explanation:
    """The explanation of `compiled` under its configuration."""
    graph = compiled.graph
    program: Program[Any, Any] = compiled.program
    variables, config = program.variables(), program.config
    active = program.space.active(config)
    return Explanation(
        name=graph.name,
        signature=f"{graph.input} -> {graph.output}",
        hash=graph.hash,
        graph=str(graph),
        opaque=tuple(
            OpaqueNote(n.program, str(n.loc or "source unknown"), n.reason, n.remedy, n.owns) for n in graph.opaque
        ),
        variables=tuple(_variable(v, config[name], name in active) for name, v in variables.items()),
        rules=tuple(str(rule) for rule in program.all_rules()),
        prompts=tuple(_prompt(module) for module in program.modules().values()),
    )


def _variable(variable: Var[Any], value: object, active: bool) -> VariableNote:
    if isinstance(variable, Demos):
        index = next((i for i, source in enumerate(variable.pool) if source == value), 0)
        shown: object = f"member {index} of its pool: {_source(variable.pool[index])}"
    else:
        shown = variable.to_json(value)
    when = None if variable.when is None else str(variable.when)
    return VariableNote(variable.name, variable.kind, variable.domain, shown, active, when)


def _source(source: object) -> str:
    if isinstance(source, Nearest):
        return f"the {source.k} nearest of {len(source.pool)}" + (f" ({source.name})" if source.name else "")
    demos = cast("DemoSet", source)
    return f"{len(demos)} demonstrations" + (f" ({demos.name})" if demos.name else "")


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else value
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


def shown_demos(settings: ModuleSettings[Any, Any]) -> tuple[Demo, ...]:
    """The demonstrations that stand in the prompt; of a nearest-neighbour source, its whole pool."""
    source = settings.demos
    if isinstance(source, Nearest):
        return source.pool
    k = settings.demos_k
    return source.demos if k is None else source.demos[-k:] if k > 0 else ()


def _prompt(module: Module[Any, Any]) -> PromptNote:
    settings, note = module.settings, None
    if isinstance(settings.demos, Nearest):
        k = min(settings.demos.k, len(settings.demos.pool), _SHOWN)
        note = f"the {settings.demos.k} demonstrations nearest to each input; shown with the first {k} of the pool"
        settings = replace(settings, demos=DemoSet(settings.demos.pool[:k]))
    given = settings.input
    sample = given.model_construct(**{name: f"{{{name}}}" for name in given.model_fields})
    try:
        request = prepare(settings).request(sample, capabilities=_EVERYTHING)
    except LMError as error:
        return PromptNote(settings.path, "", error.message)
    return PromptNote(settings.path, request_text(request), note)


def request_text(request: LMRequest) -> str:
    """A request as text, turn by turn."""
    if request.prompt is not None:
        return request.prompt
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in request.messages)


def module_markdown(module: Module[Any, Any]) -> str:
    """One module's prompt and settings as Markdown for a person."""
    settings = module.settings
    prompt = _prompt(module)
    rows = {
        "input": settings.input.__name__,
        "output": settings.output.__name__,
        "format": settings.format,
        "scoring": settings.scoring,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "reasoning": settings.reasoning,
        "demonstrations": _source(settings.demos),
        "demos_k": settings.demos_k,
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items() if value is not None)
    fence = "````"
    while fence in prompt.text or fence in settings.instruction:
        fence += "`"
    note = f"\n{prompt.note}\n" if prompt.note else ""
    return (
        f"# {settings.path}\n\n| setting | value |\n| --- | --- |\n{table}\n## Instruction\n\n{fence}text\n"
        f"{settings.instruction}\n{fence}\n\n## Prompt\n{note}\n{fence}text\n{prompt.text}\n{fence}\n"
    )


def explain_code(code: str) -> str:
    """What an error code means: its entry in the catalogue.

    Raises:
        UsageError: DX8308 for a code that does not exist.
    """
    entry = CATALOGUE.get(code.upper())
    if entry is None:
        near = difflib.get_close_matches(code.upper(), list(cast("Mapping[str, object]", CATALOGUE)), n=3)
        raise UsageError(
            "DX8308",
            f"there is no error code {code!r}",
            fix=f"did you mean {', '.join(near)}?" if near else "codes are DX and four digits, for example DX2001",
        )
    return f"{code.upper()} {entry.title}\n\n{entry.text}\n"
