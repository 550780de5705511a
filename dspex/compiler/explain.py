"""What a compiled program is, before a call is made: graph, Variables, rules, prompts, costs and what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from dspex.catalogue import CATALOGUE
from dspex.compiler.artifact.prompts import prompt_request, request_text
from dspex.compiler.diagnose import Diagnostic, diagnose
from dspex.compiler.estimate.estimates import Estimates
from dspex.compiler.ir.diff import Detail, GraphDiff, diff
from dspex.compiler.ir.nodes import Graph
from dspex.errors import DspexError, UsageError
from dspex.program.demos import DemoSet, Nearest
from dspex.program.variables import Demos, Var

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.program.modules import ModuleSettings

__all__ = ["Difference", "Explanation", "difference", "explain", "explain_code"]


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
        estimates: What a run takes, of inputs of which only the schema is known.
        diagnostics: What is wrong or worth knowing.
        drawn: The graph itself.
        config: The bound values by which its selections are decided.
    """

    name: str
    signature: str
    hash: str
    graph: str
    opaque: tuple[OpaqueNote, ...]
    variables: tuple[VariableNote, ...]
    rules: tuple[str, ...]
    prompts: tuple[PromptNote, ...]
    estimates: Estimates | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    drawn: Graph | None = field(default=None, repr=False)
    config: dict[str, object] = field(default_factory=dict[str, object], repr=False)

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
            "estimates": None if self.estimates is None else self.estimates.as_json(),
            "diagnostics": [d.as_json() for d in self.diagnostics],
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
            lines.append(f"  {v.name:<{width}}  {v.domain} = {short(v.value)}{condition}{off}")
        lines += ["", f"Rules ({len(self.rules)})", *(f"  {rule}" for rule in self.rules)]
        if self.estimates is not None:
            lines += ["", "Cost of one run", *(f"  {line}" for line in str(self.estimates).splitlines())]
        if self.diagnostics:
            lines += ["", f"Findings ({len(self.diagnostics)})"]
            lines += [f"  {line}" for d in self.diagnostics for line in str(d).splitlines()]
        for prompt in self.prompts:
            lines += ["", f"Prompt of {prompt.module}" + (f"  ({prompt.note})" if prompt.note else "")]
            lines += [f"  | {line}" for line in prompt.text.splitlines()]
        return "\n".join(lines) + "\n"

    def as_mermaid(self) -> str:
        """The graph as a Mermaid flowchart."""
        from dspex.compiler.view.mermaid import mermaid

        return "" if self.drawn is None else mermaid(self.drawn, self.config)

    def as_html(self) -> str:
        """One page without scripts or anything from elsewhere."""
        from dspex.compiler.view.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from dspex.compiler.view.page import fragment

        return fragment(self)


def explain(compiled: Compiled[Any, Any]) -> Explanation:
    """The explanation of `compiled` under its configuration; an artifact without its program has one too."""
    from dspex.compiler.estimate.estimating import estimate

    graph, space, config = compiled.graph, compiled.space, dict(compiled.config)
    active = space.active(config)
    settings = [settings for _, settings in _settings(compiled)]
    try:
        estimates = estimate(compiled)
    except DspexError:
        # A model that cannot be opened is said by the call that needs it; the rest is known all the same.
        estimates = None
    return Explanation(
        name=graph.name,
        signature=f"{graph.input} -> {graph.output}",
        hash=graph.hash,
        graph=str(graph),
        opaque=tuple(
            OpaqueNote(n.program, str(n.loc or "source unknown"), n.reason, n.remedy, n.owns) for n in graph.opaque
        ),
        variables=tuple(
            _variable(v, config.get(name, v.default), name in active) for name, v in space.variables.items()
        ),
        rules=tuple(str(rule) for rule in space.rules),
        prompts=tuple(_prompt(each) for each in settings),
        estimates=estimates,
        diagnostics=diagnose(compiled),
        drawn=graph,
        config=config,
    )


def _settings(compiled: Compiled[Any, Any]) -> list[tuple[str, ModuleSettings[Any, Any]]]:
    """The settings of every module that can be told; those inside opaque programs need the program."""
    found: list[tuple[str, ModuleSettings[Any, Any]]] = []
    for path in compiled.settings:
        try:
            found.append((path, compiled.settings[path]))
        except DspexError:
            continue
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """How one compiled program differs from another; false when it does not.

    Attributes:
        graph: What differs between the graphs.
        variables: What differs about Variables that both have: domains and values, by name.
    """

    graph: GraphDiff
    variables: tuple[Detail, ...]

    def __bool__(self) -> bool:
        return bool(self.graph or self.variables)

    def __str__(self) -> str:
        said = [str(self.graph).rstrip()] if self.graph or not self.variables else []
        return "\n".join([*said, *(f"~ ${item}" for item in self.variables)]) + "\n"

    def as_json(self) -> dict[str, object]:
        """The same as plain JSON data."""
        return {
            "graph": self.graph.as_json(),
            "variables": [{"what": v.what, "before": v.before, "after": v.after} for v in self.variables],
        }


def difference(one: Compiled[Any, Any], two: Compiled[Any, Any]) -> Difference:
    """How `two` differs from `one`: graph, domains and bound values."""
    details: list[Detail] = []
    for name, variable in one.space.variables.items():
        other = two.space.variables.get(name)
        if other is None:
            continue
        before, after = (_variable(v, c.config[name], True) for v, c in ((variable, one), (other, two)))
        if variable.signature() != other.signature() or before.domain != after.domain:
            details.append(Detail(f"{name} domain", before.domain, after.domain))
        if before.value != after.value or _members(one, name) != _members(two, name):
            details.append(Detail(name, short(before.value), short(after.value)))
    return Difference(diff(one.graph, two.graph), tuple(details))


def _members(compiled: Compiled[Any, Any], name: str) -> object:
    """Whatever tells apart two demonstration sources that look alike."""
    return getattr(compiled.config[name], "hash", None)


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


def short(value: object) -> str:
    """`value` on one line, cut."""
    text = repr(value) if not isinstance(value, str) else value
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


def _prompt(settings: ModuleSettings[Any, Any]) -> PromptNote:
    request, note = prompt_request(settings)
    return PromptNote(settings.path, "" if request is None else request_text(request), note)


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
