"""Passes, text in and text out."""

from __future__ import annotations

import pytest

from dspex.compiler.ir.nodes import Constant, Estimate
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.printer import print_graph
from dspex.compiler.ir.verify import violations
from dspex.compiler.passes import Pass
from dspex.compiler.passes.dead import RemoveDead
from dspex.compiler.passes.estimate import EstimateTokens
from dspex.compiler.passes.fold import FoldFrozen
from dspex.compiler.passes.inline import Inline
from dspex.compiler.passes.layout import LayPrompts
from dspex.compiler.passes.merge import MergeEqual
from dspex.compiler.passes.order import OrderParameters
from dspex.compiler.passes.schedule import Schedule
from dspex.errors import CompileError
from dspex.program.schema import Schema, field
from dspex.program.types import ApiKey

NESTED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = call @inner Ask -> Draft (%0) {
    %2 = input : Ask
    %3 = call @inner.deep Ask -> Draft (%2) {
      %4 = input : Ask
      %5 = lm Ask -> Draft (%4) @inner.deep.m
      output %5
    }
    %6 = python bot:score (%2.question, %3.text) : float
    %7 = join copy (%3, score=%6) : Draft
    output %7
  }
  %8 = select $s {
    a: call @s.a Draft -> Answer (%1) {
      %10 = input : Draft
      %11 = lm Draft -> Answer (%10) @s.a.m
      output %11
    }
    b: lm Draft -> Answer (%1) @s.b
  } : Answer
  output %8
}
"""

INLINED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Draft (%0) @inner.deep.m
  %2 = python bot:score (%0.question, %1.text) : float
  %3 = join copy (%1, score=%2) : Draft
  %4 = select $s {
    a: lm Draft -> Answer (%3) @s.a.m
    b: lm Draft -> Answer (%3) @s.b
  } : Answer
  output %4
}
"""

DEAD = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Draft (%0) @unread
  %2 = lm Ask -> Draft (%0) @read_by_dead
  %3 = join record (text=%2.text) : Draft
  %4 = python bot:log (%0.question) : None
  %5 = python pure bot:tidy (%0.question) : str
  %6 = select $s {
    a: {
      %7 = lm Ask -> Answer (%0) @s.a
      %8 = lm Ask -> Answer (%0) @s.dead
      output %7
    }
  } : Answer
  %9 = cond %0.deep {
    output %0
  } else {
    %10 = tool notify (%0.question) : Ask
    output %10
  } : Ask
  output %6
}
"""

ALIVE = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = python bot:log (%0.question) : None
  %2 = select $s {
    a: lm Ask -> Answer (%0) @s.a
  } : Answer
  %4 = cond %0.deep {
    output %0
  } else {
    %5 = tool notify (%0.question) : Ask
    output %5
  } : Ask
  output %2
}
"""

ORDERED_CALLS = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = tool notify (%0.text) : None
  %2 = after %1 call @inner Ask -> Answer (%0) {
    %3 = input : Ask
    %4 = tool start (%3.text) : None
    %5 = after %4 lm Ask -> Answer (%3) @inner.m
    output %5
  }
  %6 = after %2 tool stop (%0.text) : None
  %7 = call @empty Ask -> Ask ($given) {
    %8 = input : Ask
    output %8
  }
  %9 = python bot:tell (%7.text, %7) : None
  output %2
}
"""

ORDERED_INLINED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = tool notify (%0.text) : None
  %2 = after %1 tool start (%0.text) : None
  %3 = after %2, %1 lm Ask -> Answer (%0) @inner.m
  %4 = after %2, %3 tool stop (%0.text) : None
  %5 = join tuple ($given) : tuple[?]
  %6 = python bot:tell (%5[0].text, %5[0]) : None
  output %3
}
"""

AFTER_INPUTS = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Ask (%0) @m
  %2 = after %1 call @inner Ask -> Answer (%1) {
    %3 = input : Ask
    %4 = after %3 tool start (%3.text) : Answer
    output %4
  }
  %5 = map %0.items {
    %6 = input : ?
    %7 = call @other Ask -> Answer (%1) {
      %8 = input : Ask
      %9 = after %8 lm Ask -> Answer (%8) @other.m
      output %9
    }
    output %7
  } : list[Answer]
  output %2
}
"""

AFTER_INPUTS_INLINED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Ask (%0) @m
  %2 = after %1 tool start (%1.text) : Answer
  %3 = map %0.items {
    %4 = input : ?
    %5 = lm Ask -> Answer (%1) @other.m
    output %5
  } : list[Answer]
  output %2
}
"""

DEAD_ATTEMPTS = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = race {
    a: lm Ask -> Answer (%0) @a
    b: lm Ask -> Answer (%0) @b
  } : Answer
  %4 = fallback {
    a: lm Ask -> Answer (%0) @c
    b: {
      %6 = lm Ask -> Answer (%0) @unread
      %7 = tool notify (%0.text) : Answer
      output %7
    }
  } : Answer
  %8 = after %4 lm Ask -> Answer (%0) @dropped
  %9 = after %8, %1 lm Ask -> Answer (%0) @d
  %10 = lm Ask -> Answer (%0) @e
  %11 = join vote (%9, %10) : Answer
  output %11
}
"""

ALIVE_ATTEMPTS = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = fallback {
    a: lm Ask -> Answer (%0) @c
    b: tool notify (%0.text) : Answer
  } : Answer
  %4 = after %1 lm Ask -> Answer (%0) @d
  %5 = lm Ask -> Answer (%0) @e
  %6 = join vote (%4, %5) : Answer
  output %6
}
"""

TOGETHER = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = call @before Ask -> Draft (%0) {
    %2 = input : Ask
    %3 = tool first (%2.text) : str
    %4 = lm Ask -> Draft (%2) @a temperature=0.0
    output %4
  }
  %5 = together {
    one: call @one Ask -> Draft (%0) {
      %7 = input : Ask
      %8 = tool one (%7.text) : str
      %9 = lm Ask -> Draft (%7) @a temperature=0.0
      %10 = tool more (%7.text) : str
      %11 = join record (text=%8) : Draft
      output %9
    }
    two: tool two (%0.text) : Draft
  } : list
  %13 = together {
    only: lm Ask -> Draft (%0) @spare
  } : list
  %15 = together {
    only: lm Draft -> Draft (%5[0]) @b
  } : list
  %17 = tool last (%0.text) : str
  %18 = lm Draft -> Answer (%15[0]) @end
  output %18
}
"""

TOGETHER_INLINED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = tool first (%0.text) : str
  %2 = lm Ask -> Draft (%0) @a temperature=0.0
  %3 = together {
    one: {
      %4 = tool one (%0.text) : str
      %5 = lm Ask -> Draft (%0) @a temperature=0.0
      %6 = tool more (%0.text) : str
      %7 = join record (text=%4) : Draft
      output %5
    }
    two: tool two (%0.text) : Draft
  } : list
  %9 = together {
    only: lm Ask -> Draft (%0) @spare
  } : list
  %11 = together {
    only: lm Draft -> Draft (%3[0]) @b
  } : list
  %13 = tool last (%0.text) : str
  %14 = lm Draft -> Answer (%11[0]) @end
  output %14
}
"""

TOGETHER_ALIVE = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = tool first (%0.text) : str
  %2 = together {
    one: {
      %3 = tool one (%0.text) : str
      %4 = lm Ask -> Draft (%0) @a temperature=0.0
      %5 = tool more (%0.text) : str
      output %4
    }
    two: tool two (%0.text) : Draft
  } : list
  %7 = together {
    only: lm Draft -> Draft (%2[0]) @b
  } : list
  %9 = tool last (%0.text) : str
  %10 = lm Draft -> Answer (%7[0]) @end
  output %10
}
"""

TOGETHER_MERGED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = tool first (%0.text) : str
  %2 = lm Ask -> Draft (%0) @a temperature=0.0
  %3 = together {
    one: {
      %4 = tool one (%0.text) : str
      %5 = tool more (%0.text) : str
      output %2
    }
    two: tool two (%0.text) : Draft
  } : list
  %7 = together {
    only: lm Draft -> Draft (%3[0]) @b
  } : list
  %9 = tool last (%0.text) : str
  %10 = lm Draft -> Answer (%7[0]) @end
  output %10
}
"""

TOGETHER_SCHEDULED = (
    TOGETHER_INLINED.replace("%3 = together", "%3 = after %1 together")
    .replace("%6 = tool", "%6 = after %4 tool")
    .replace("%13 = tool", "%13 = after %3 tool")
)

OPEN = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = select $solver {
    a: lm Ask -> Answer (%0) @a temperature=$heat
    b: {
      %3 = lm Ask -> Answer (%0) @b
      %4 = cond $deep {
        %5 = lm Answer -> Answer (%3) @c style=$style
        output %5
      } else {
        output %3
      } : Answer
      output %4
    }
  } : Answer
  %6 = fallback {
    only: lm Answer -> Answer (%1) @d
  } : Answer
  %8 = after %1 tool notify (%6.text, $style, $free) : None
  %9 = cond 0 {
    output %1
  } else {
    output $limits
  } : ?
  %10 = python bot:f (%9.low, $heat) uses [$style] : str
  output %6
}
"""

FOLDED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Answer (%0) @b
  %2 = lm Answer -> Answer (%1) @c style="terse"
  %3 = lm Answer -> Answer (%2) @d
  %4 = after %1, %2 tool notify (%3.text, "terse", $free) : None
  %5 = join tuple ({"low": 1}) : tuple[?]
  %6 = python bot:f (%5[0].low, 0.5) uses [$style] : str
  output %3
}
"""

EQUAL = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Draft (%0) @m temperature=0.0 instruction=$i
  %2 = lm Ask -> Draft (%0) @m temperature=0.0 instruction=$i
  %3 = lm Ask -> Draft (%0) @other instruction=$i temperature=0.0
  %4 = lm Ask -> Draft (%0) @alone temperature=0.0 instruction=$i
  %5 = lm Ask -> Draft (%0) @m temperature=0.7 instruction=$i
  %6 = lm Ask -> Draft (%0) @m temperature=0.7 instruction=$i
  %7 = lm Ask -> Draft (%0) @m scope @x temperature=0.0 instruction=$i
  %8 = python pure bot:tidy (%1.text) : str
  %9 = python pure bot:tidy (%2.text) : str
  %10 = python bot:roll (%0.text) : str
  %11 = python bot:roll (%0.text) : str
  %12 = join list (%1, %2) : list[Draft]
  %13 = join list (%2, %3) : list[Draft]
  %14 = join record (drafts=%12, note=%8) : Grounded
  %15 = join record (drafts=%13, note=%9) : Grounded
  %16 = cond %0.deep {
    %17 = lm Ask -> Draft (%0) @m temperature=0.0 instruction=$i
    %18 = lm Grounded -> Draft (%14) @deep temperature=0.0
    output %18
  } else {
    %19 = lm Grounded -> Draft (%15) @deep temperature=0.0
    output %19
  } : Draft
  %20 = lm Grounded -> Draft (%15) @deep temperature=0.0
  %21 = join tuple (%3, %4, %5, %6, %7, %10, %11, %16, %20) : tuple[?]
  output %21
}
"""

MERGED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Draft (%0) @m temperature=0.0 instruction=$i
  %2 = lm Ask -> Draft (%0) @alone temperature=0.0 instruction=$i
  %3 = lm Ask -> Draft (%0) @m temperature=0.7 instruction=$i
  %4 = lm Ask -> Draft (%0) @m temperature=0.7 instruction=$i
  %5 = lm Ask -> Draft (%0) @m scope @x temperature=0.0 instruction=$i
  %6 = python pure bot:tidy (%1.text) : str
  %7 = python bot:roll (%0.text) : str
  %8 = python bot:roll (%0.text) : str
  %9 = join list (%1, %1) : list[Draft]
  %10 = join record (drafts=%9, note=%6) : Grounded
  %11 = cond %0.deep {
    %12 = lm Grounded -> Draft (%10) @deep temperature=0.0
    output %12
  } else {
    %13 = lm Grounded -> Draft (%10) @deep temperature=0.0
    output %13
  } : Draft
  %14 = lm Grounded -> Draft (%10) @deep temperature=0.0
  %15 = join tuple (%1, %2, %3, %4, %5, %7, %8, %11, %14) : tuple[?]
  output %15
}
"""

CHANGED_LISTS = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = join list (%0) : list[Ask]
  %2 = join list (%0) : list[Ask]
  %3 = python bot:clear (%1) : None
  %4 = join record (items=%1) : Many
  %5 = join record (items=%2) : Many
  %6 = lm Many -> Answer (%4) @m temperature=0.0
  %7 = lm Many -> Answer (%5) @m temperature=0.0
  %8 = join vote (%6, %7) : Answer
  output %8
}
"""

SHARED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Draft (%0) @a temperature=0.0
  %2 = python bot:log (%0.text) : str
  %3 = lm Ask -> Draft (%0) @a temperature=0.0
  %4 = python bot:grow (%0.items) : None
  %5 = lm Ask -> Draft (%0) @a temperature=0.0
  %6 = join record (items=%0.items) : Held
  %7 = lm Ask -> Draft (%0) @a temperature=0.0
  %8 = cond %1.deep {
    %9 = lm Ask -> Draft (%0) @b temperature=0.0
    output %9
  } else {
    output %1
  } : Draft
  %10 = python bot:log (%0.text) : str
  %11 = join record (items=%0.items) : Held
  %12 = lm Ask -> Draft (%0) @a temperature=0.0
  %13 = lm Held -> Answer (%6) @c temperature=0.0
  %14 = join vote (%1, %3, %5, %7, %8, %11, %12, %13) : Answer
  output %14
}
"""

SHARED_MERGED = (
    SHARED.replace("  %3 = lm Ask -> Draft (%0) @a temperature=0.0\n", "")
    .replace("  %7 = lm Ask -> Draft (%0) @a temperature=0.0\n", "")
    .replace("(%1, %3, %5, %7, %8, %11, %12, %13)", "(%1, %1, %5, %5, %8, %11, %12, %13)")
)

SHARED_SCHEDULED = (
    SHARED.replace("%4 = python", "%4 = after %2, %1, %3 python")
    .replace("%5 = lm", "%5 = after %4 lm")
    .replace("%6 = join", "%6 = after %4 join")
    .replace("%7 = lm", "%7 = after %4 lm")
    .replace("%8 = cond", "%8 = after %4 cond")
    .replace("%10 = python", "%10 = after %5, %6, %7, %8 python")
    .replace("%11 = join", "%11 = after %10 join")
    .replace("%12 = lm", "%12 = after %10 lm")
    .replace("%13 = lm", "%13 = after %10 lm")
)

UNORDERED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = tool first (%0.text) : str
  %2 = lm Ask -> Answer (%0) @a
  %3 = tool second (%1) : str
  %4 = lm Ask -> Answer (%0) @b
  %5 = tool third (%2.text) : str
  %6 = cond %0.deep {
    %7 = python bot:log (%5) : None
    %8 = python bot:log (%0.text) : None
    output %8
  } else {
    output null
  } : None
  %9 = map ordered %0.items {
    %10 = input : str
    %11 = tool each (%10) : str
    output %11
  } : list[str]
  %12 = map ordered %0.items {
    %13 = input : str
    %14 = lm str -> Answer (%13) @c
    output %14
  } : list[Answer]
  %15 = python pure bot:tidy (%9) : str
  %16 = opaque bot:Loop str -> Answer (%15) @loop
  output %16
}
"""

SCHEDULED = (
    UNORDERED.replace("%5 = tool", "%5 = after %3 tool")
    .replace("%6 = cond", "%6 = after %5 cond")
    .replace("%8 = python", "%8 = after %7 python")
    .replace("%9 = map", "%9 = after %6 map")
    .replace("%12 = map ordered", "%12 = map")
)

PROMPTS = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = lm Ask -> Answer (%0) @plain
  %2 = lm Ask -> Answer (%0) @nearest
  %3 = python pure bot:rules ($style, @table) : str
  %4 = join record (policy=%3, limit=3, text=%0.text) : Grounded
  %5 = lm Grounded -> Answer (%4) @grounded
  %6 = join copy (%4, limit=%0.limit) : Grounded
  %7 = lm Grounded -> Answer (%6) @copied
  %8 = join record (text="always", policy="a", extra=null) : Grounded
  %9 = lm Grounded -> Answer (%8) @fixed
  %10 = python bot:now () : str
  %11 = join record (policy=%10, text="b") : Grounded
  %12 = lm Grounded -> Answer (%11) @impure
  %13 = lm Unknown -> Answer (%0) @unknown
  output %13
}
"""

LAID_OUT = (
    PROMPTS.replace("@plain", "@plain prefix [instruction, demos]")
    .replace("@nearest", "@nearest prefix [instruction]")
    .replace("@grounded", "@grounded prefix [instruction, demos, policy, limit]")
    .replace("@copied", "@copied prefix [instruction, demos, policy]")
    .replace("@fixed", "@fixed prefix [instruction, demos, policy, limit, text, extra]")
    .replace("@impure", "@impure prefix [instruction, demos]")
    .replace("@unknown", "@unknown prefix [instruction, demos]")
)


class Ask(Schema):
    text: str
    limit: int = 2


class Grounded(Schema):
    policy: str
    key: ApiKey = field(ApiKey("k"))
    limit: int = 2
    text: str = ""
    extra: str | None = None


class Items(Schema):
    text: str
    deep: bool = False
    items: list[str] = []


class Held(Schema):
    items: list[list[str]]


class Text(Schema):
    text: str
    deep: bool = False


SCHEMAS = {"Ask": Ask, "Grounded": Grounded}
SHARING = {"Ask": Items, "Held": Held, "Draft": Text, "Answer": Text}


def renumbered(text: str) -> str:
    return print_graph(parse(text))


FROZEN = {
    "solver": Constant.of("b"),
    "deep": Constant.of(True),
    "style": Constant.of("terse"),
    "heat": Constant.of(0.5),
    "limits": Constant.of({"low": 1}),
}
ONE_MODEL = {"m": "the model", "other": "the model"}
NAMES = (("solver", "heat", "deep", "style", "free"), ("limits",))
ESTIMATES = {1: Estimate((120, 180), (1, 512)), 2: Estimate((90, None), (1, 64))}

GOLDEN: list[tuple[str, Pass, str, str]] = [
    ("inline", Inline(), NESTED, INLINED),
    ("inline-after", Inline(), ORDERED_CALLS, ORDERED_INLINED),
    ("inline-after-inputs", Inline(), AFTER_INPUTS, AFTER_INPUTS_INLINED),
    ("inline-together", Inline(), TOGETHER, TOGETHER_INLINED),
    ("fold-together", FoldFrozen({}), TOGETHER_INLINED, TOGETHER_INLINED),
    ("dead-together", RemoveDead(), TOGETHER_INLINED, TOGETHER_ALIVE),
    ("merge-together", MergeEqual({}, SHARING), TOGETHER_INLINED, TOGETHER_MERGED),
    ("schedule-together", Schedule(SHARING), TOGETHER_INLINED, TOGETHER_SCHEDULED),
    ("dead", RemoveDead(), DEAD, ALIVE),
    ("dead-attempts", RemoveDead(), DEAD_ATTEMPTS, ALIVE_ATTEMPTS),
    ("fold", FoldFrozen(FROZEN), OPEN, FOLDED),
    ("merge", MergeEqual(ONE_MODEL), EQUAL, MERGED),
    ("merge-changed", MergeEqual({}), CHANGED_LISTS, CHANGED_LISTS),
    ("merge-shared", MergeEqual({}, SHARING), SHARED, renumbered(SHARED_MERGED)),
    ("schedule", Schedule(SHARING), UNORDERED, SCHEDULED),
    ("schedule-shared", Schedule(SHARING), SHARED, SHARED_SCHEDULED),
    ("layout", LayPrompts(SCHEMAS, frozenset({"nearest"})), PROMPTS, LAID_OUT),
    (
        "order",
        OrderParameters(*NAMES),
        OPEN,
        OPEN.replace("{\n", "{\n  params $solver, $heat, $deep, $style, $free\n  computed $limits\n", 1),
    ),
    (
        "estimate",
        EstimateTokens(ESTIMATES),
        PROMPTS,
        PROMPTS.replace("@plain", "@plain estimate 120..180 -> 1..512").replace(
            "@nearest", "@nearest estimate 90.. -> 1..64"
        ),
    ),
]


@pytest.mark.parametrize(("step", "given", "wanted"), [row[1:] for row in GOLDEN], ids=[row[0] for row in GOLDEN])
def test_pass_gives_the_text_that_is_wanted(step: Pass, given: str, wanted: str) -> None:
    graph = parse(given)
    assert violations(graph) == ()
    assert print_graph(graph) == given
    result = step.run(graph)
    assert print_graph(result) == wanted
    assert violations(result) == ()
    assert step.run(result) == result


def test_argument_stands_for_the_input_when_it_is_an_attribute() -> None:
    text = NESTED.replace("Draft (%0) {", "Draft (@default) {")
    assert "python bot:score (@default.question, %1.text)" in print_graph(Inline().run(parse(text)))


def test_branch_is_refused_when_a_selection_is_frozen_to_another_name() -> None:
    with pytest.raises(CompileError, match=r"DX2082.*its branches are a, b"):
        FoldFrozen({"solver": Constant.of("c")}).run(parse(OPEN))


def test_hash_is_the_same_when_only_estimates_differ() -> None:
    graph = parse(PROMPTS)
    assert EstimateTokens(ESTIMATES).run(graph).hash == graph.hash
    assert LayPrompts(SCHEMAS).run(graph).hash != graph.hash
