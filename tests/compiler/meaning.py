"""What a graph means, in the plainest way: the oracle for passes.

Values are terms. Nodes run one after another in source order; what depends on the world is decided by a hash, so that
it is decided in the same way whatever a pass did to the graph.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspex.compiler.ir.nodes import (
    Argument,
    Attempt,
    Attribute,
    Branch,
    Call,
    Cond,
    Constant,
    Graph,
    Input,
    Join,
    Lm,
    Map,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Select,
    Tool,
    Value,
    Variable,
)

Term = Any


@dataclass
class Run:
    """One run of a graph.

    Attributes:
        values: What the Variables are set to; the others stand for themselves.
        seed: Decides what is not set.
        models: What tells the answers of modules apart; the others' own names do.
        acts: What acted on the world, in order.
        calls: The calls of language models, with how often each was made.
    """

    values: Mapping[str, Constant]
    seed: int = 0
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    acts: list[Term] = field(default_factory=list[Term])
    calls: Counter[Term] = field(default_factory=Counter[Term])
    known: dict[int, Term] = field(default_factory=dict[int, Term])

    def output(self, graph: Graph) -> Term:
        return self._region(graph.body, ("given",))

    def _decide(self, *about: object) -> int:
        return int.from_bytes(hashlib.sha256(repr((self.seed, about)).encode()).digest()[:4], "little")

    def _region(self, region: Region, given: Term = None) -> Term:
        for node in region.nodes:
            self.known[node.id] = given if isinstance(node, Input) else self._node(node)
        return self._value(region.output)

    def _value(self, value: Value) -> Term:
        match value:
            case Ref():
                term = self.known[value.node]
                for step in value.path:
                    term = self._step(term, step)
                return term
            case Variable():
                return self.values.get(value.name, value)
            case _:
                return value

    def _step(self, term: Term, step: str | int) -> Term:
        if isinstance(term, Attribute):
            return Attribute(f"{term.name}.{step}")
        match term:
            case ("join", "tuple", items) if isinstance(step, int) and step < len(items):
                return items[step][1]
            case _:
                return ("step", term, step)

    def _args(self, args: tuple[Argument, ...]) -> Term:
        return tuple((a.name, self._value(a.value)) for a in args)

    def _node(self, node: Node) -> Term:
        match node:
            case Lm():
                settings = tuple((s.name, self._value(s.value)) for s in node.settings)
                call = ("lm", self.models.get(node.module, node.module), node.scope, self._args(node.args), settings)
                self.calls[call] += 1
                return call
            case Python() | Tool() | Opaque():
                return self._function(node)
            case Join():
                return ("join", node.form, self._args(node.args))
            case Select():
                return self._region(self._branch(node).body)
            case Cond():
                test = self._value(node.test)
                true = bool(test.value) if isinstance(test, Constant) else self._decide("cond", test) % 2
                return self._region(node.then if true else node.otherwise)
            case Map():
                over = self._value(node.over)
                return ("map", tuple(self._region(node.body, ("item", over, at)) for at in range(2)))
            case Attempt(form="together"):
                return ("together", tuple(self._region(branch.body) for branch in node.branches))
            case Attempt():
                wins = self._decide("attempt", [b.name for b in node.branches]) % len(node.branches)
                tried = node.branches if node.form == "race" else node.branches[: wins + 1]
                return [self._region(branch.body) for branch in tried][wins]
            case Call():
                return self._region(node.body, self._value(node.args[0].value))
            case Input():
                raise AssertionError("an input is given")

    def _function(self, node: Python | Tool | Opaque) -> Term:
        args = self._args(node.args)
        if isinstance(node, Python):
            result = ("python", node.key, args, node.uses)
            if node.pure:
                return result
        else:
            result = ("tool", node.name, args) if isinstance(node, Tool) else ("opaque", node.target, args)
        self.acts.append(result)
        return (*result, len(self.acts))

    def _branch(self, node: Select) -> Branch:
        wanted = self.values.get(node.variable)
        for branch in node.branches:
            if wanted is not None and branch.name == wanted.value:
                return branch
        return node.branches[self._decide("select", node.variable) % len(node.branches)]
