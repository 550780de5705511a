"""Which candidates a search tries first: those that usually matter, the most promising ones first.

The order is the prior: what a smaller budget cuts off is its end. Everything else in the space is left to
the optimizer, which learns from these candidates as from its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspex.program.demos import DemoSet, Nearest
from dspex.program.space import Space
from dspex.program.variables import Var
from dspex.proposers.proposal import Proposal

if TYPE_CHECKING:
    from dspex.program.modules import Module
    from dspex.program.program import Program

Overrides = dict[str, object]


@dataclass(frozen=True)
class ModuleNames:
    """Full names of a module's own Variables, as far as the space has them."""

    path: str
    instruction: str | None
    demos: str | None
    format: str | None
    scoring: str | None
    prior: str | None = None
    answers: str | None = None

    @classmethod
    def of(cls, module: Module[Any, Any], space: Space) -> ModuleNames:
        """The names of a bound module's Variables; an argument that is itself a Variable has that one's name."""
        path = module.settings.path

        def name(argument: str) -> str | None:
            given = module.arguments.get(argument)
            full = f"{path}.{argument}" if path else argument
            if isinstance(given, Var):
                inside = f"{path}.{given.name}" if path else given.name
                full = inside if inside in space else module.dx_full_name(given.name)
            return full if full in space else None

        arguments = ("instruction", "demos", "format", "scoring", "prior", "answers")
        return cls(path, *map(name, arguments))


@dataclass(frozen=True)
class Seed:
    """A candidate to try: where it comes from, and what differs from the default configuration."""

    origin: str
    overrides: Mapping[str, object]


class Seeds:
    """The first candidates for one space.

    Args:
        space: With grown pools.
        default: The configuration that the others differ from.
        modules: Names of every module's Variables.
        groups: Proposals; those of one group are tried together.
        frozen: Variables that keep their value, because the model can serve no other.
    """

    def __init__(
        self,
        space: Space,
        default: Mapping[str, object],
        modules: Sequence[ModuleNames],
        groups: Sequence[Sequence[Proposal]],
        frozen: Mapping[str, object],
    ) -> None:
        self._space = space
        self._default = default
        self._frozen = frozen
        self._modules = modules
        self._sets = _groups(groups, lambda p: isinstance(p.member, DemoSet) and p.proposer != "bootstrap")
        self._near = _groups(groups, lambda p: isinstance(p.member, Nearest) and p.proposer != "bootstrap")
        self._booted = _groups(groups, lambda p: p.proposer == "bootstrap")
        self._grounded = _groups(groups, lambda p: p.proposer == "grounded")
        self._written = _groups(groups, lambda p: isinstance(p.member, str) and p.proposer != "grounded")

    def all(self) -> list[Seed]:
        """Every seed, the most promising first, each configuration once; the default is the first."""
        found: dict[str, Seed] = {}
        for seed in self._ordered():
            config = self._space.completed({**self._default, **seed.overrides})
            if not self._space.broken(config):
                found.setdefault(self._space.identity(config), seed)
        return list(found.values())

    def _ordered(self) -> Iterator[Seed]:
        yield Seed("default", {})
        # A fixed prompt pays its content-free score once, per-input demonstrations would pay it for every input.
        # Where a prior can be fitted, neither pays anything.
        fits = all(module.prior is not None for module in self._modules if module.scoring is not None)
        calibrated = self._format("completion", "calibrated")
        scored = self._format("completion", "calibrated" if fits else "logprob")
        plain = self._format("completion", "generate")
        sets, near = self._sets, self._near
        yield from self._with("fixed demonstrations", sets[:1], calibrated)
        yield from self._with("nearest demonstrations", near[:1], scored)
        yield Seed("zero-shot, completion, calibrated", calibrated)
        if not sets:
            yield from self._with("bootstrapped demonstrations", self._booted, scored)
        yield from self._with("fixed demonstrations", sets[1:2], calibrated)
        yield Seed("zero-shot, completion", plain)
        yield from self._with(
            "instruction from the schema, fixed demonstrations", _join(self._grounded, sets), calibrated
        )
        for branch in self._branches():
            yield from self._with("another branch, fixed demonstrations", sets[:1], {**scored, **branch})
        yield from self._with("fixed demonstrations", sets[2:3], calibrated)
        yield from self._with("nearest demonstrations", near[1:2], scored)
        yield from self._with(
            "instruction from the schema, nearest demonstrations", _join(self._grounded, near), scored
        )
        yield from self._with("fixed demonstrations", sets[3:], calibrated)
        yield Seed("zero-shot, chat, calibrated", self._format("chat", "calibrated"))
        yield from self._with("written instruction, fixed demonstrations", _join(self._written, sets), calibrated)
        yield from self._with("instruction from the schema", self._grounded[:1], calibrated)
        yield from self._with("nearest demonstrations, chat", near[:1], {})
        yield from self._with("fixed demonstrations, chat", sets[:1], {})
        yield from self._with("bootstrapped demonstrations", self._booted, scored)
        yield from self._with("written instruction", self._written, scored)
        for branch in self._branches():
            yield Seed("another branch", branch)

    def _with(self, origin: str, groups: Iterable[Overrides], base: Mapping[str, object]) -> Iterator[Seed]:
        for group in groups:
            yield Seed(origin, {**base, **group})

    def _format(self, form: str, scoring: str) -> Overrides:
        """Format and scoring of every module that has the choice."""
        found: Overrides = {}
        for module in self._modules:
            for name, wanted in ((module.format, form), (module.scoring, scoring)):
                if name is None or name in self._frozen:
                    continue
                if wanted in self._space.variables[name].options:
                    found[name] = wanted
        return found

    def _branches(self) -> Iterator[Overrides]:
        for name, variable in self._space.variables.items():
            if variable.kind == "module":
                for branch in variable.options:
                    if branch != self._default[name]:
                        yield {name: branch}


def is_zero_shot(config: Mapping[str, object], default: Mapping[str, object], modules: Sequence[ModuleNames]) -> bool:
    """Whether a configuration differs from the default in formats and scorings alone, and shows no demonstrations."""
    formats = {name for module in modules for name in (module.format, module.scoring, module.prior)}
    for module in modules:
        source = config.get(module.demos) if module.demos is not None else None
        if source is not None and not is_empty(source):
            return False
    return all(config[name] == default[name] for name in default if name not in formats)


def is_empty(source: object) -> bool:
    """Whether a demonstration source shows nothing."""
    return isinstance(source, DemoSet) and not source.demos


def per_input(config: Mapping[str, object], modules: Sequence[ModuleNames]) -> frozenset[str]:
    """Paths of the modules whose prompt changes with the input beyond the input itself."""
    return frozenset(m.path for m in modules if m.demos is not None and isinstance(config.get(m.demos), Nearest))


def _groups(groups: Sequence[Sequence[Proposal]], wanted: Callable[[Proposal], bool]) -> list[Overrides]:
    return [{p.variable: p.member for p in group} for group in groups if group and all(wanted(p) for p in group)]


def _join(first: Sequence[Overrides], second: Sequence[Overrides]) -> list[Overrides]:
    return [{**first[0], **second[0]}] if first and second else []


def calls_per_example(program: Program[Any, Any], config: Mapping[str, object], modules: Sequence[ModuleNames]) -> int:
    """Calls that one example takes: one a module that can run, two where every input has a content-free score."""
    active = program.space.active(config)
    varying = per_input(config, modules)
    calls = 0
    for module in modules:
        own = [name for name in (module.instruction, module.demos) if name is not None]
        if own and not any(name in active for name in own):
            continue
        scoring = config.get(module.scoring) if module.scoring is not None else None
        unfitted = module.prior is None and scoring == "calibrated"
        calls += 2 if unfitted and module.path in varying else 1
    return max(1, calls)
