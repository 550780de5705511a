"""Each reason for which a body stays plain Python: a body that has it, and one that follows the remedy to the letter.

A body is the text of a method, after `members` of its class; the text of `TOP` stands at the top of its file.
"""

from __future__ import annotations

from dataclasses import dataclass

TOP = '''
import asyncio, contextlib, functools, time
from typing import Any
import dspex as dx
from tests.compiler.bodies import Answer, Ask, Asker, Draft, fetch, shout

COUNT = [0]
outside = dx.Predict(Ask, Answer)

async def ticks(text):
    for letter in text:
        yield letter

async def collected(text):
    return [tick async for tick in ticks(text)]

@dx.tool
async def look_up(q: str) -> str:
    """Looks up."""
    return q + "?"

def acts(text: str) -> str:
    COUNT[0] += 0
    return text + "!"

async def helped(module: Any, x: Ask) -> Answer:
    return await module(x)

def doubled(text: str) -> str:
    return text * 2

def joined(texts: list[str]) -> str:
    result = ""
    for text in texts:
        result = text + result
    return result

def number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return -1

def quietly(text: str) -> int:
    with contextlib.suppress(ValueError):
        return int(text)
    return 0

def checked(text: str) -> None:
    assert isinstance(text, str)

def refused(text: str) -> None:
    if text == "never":
        raise ValueError(text)

def counted() -> int:
    return COUNT[0]

def evaluated(text: str) -> str:
    return eval("text * 2")

def named(**names: object) -> list[str]:
    return sorted(names)

def first_of(texts: list[str]) -> str:
    return next((text for text in texts if text), "none")

def changed(text: str) -> str:
    made = Answer(text="")
    setattr(made, "text", text) if text == "never" else None
    return text
'''


@dataclass(frozen=True)
class Case:
    """A reason, what offends, and what the remedy makes of it.

    Attributes:
        reason: Part of the reason.
        before: The body that has it.
        after: The body that follows the remedy.
        members: More attributes and methods of the class, for both.
        then: More attributes and methods that the remedy asks for.
    """

    reason: str
    before: str
    after: str
    members: str = ""
    then: str = ""


LISTED = """
def __init__(self):
    super().__init__()
    self.steps = [dx.Predict(Ask, Draft), dx.Predict(Ask, Draft)]
    self.table = {"a": dx.Predict(Ask, Draft), "b": dx.Predict(Ask, Draft)}
"""
ROUNDS = "rounds: dx.Var[int] = dx.var(2, lo=1, hi={hi})"
LOOSE = "return await self.loose(x)"
TEXT = "return Answer(text=str({}))"

CASES = [
    # --- choices
    Case(
        "an `if` on a value",
        f"if x.deep:\n    return await self.second(await self.first(x))\n{LOOSE}",
        "return await self.second(await self.first(x)) if x.deep else await self.loose(x)",
    ),
    Case(
        "an `if` on a value",
        "if x.deep:\n    return await self.loose(x)\nreturn await self.other(x)",
        "return await dx.cond(x.deep, self.loose, self.other, x)",
        "other = dx.ChainOfThought(Ask, Answer)",
    ),
    Case(
        "an `if` on a value",
        "a = await self.loose(x)\nif a.source is None:\n    a = Answer(text='none')\nreturn a",
        "a = await self.loose(x)\na = Answer(text='none') if a.source is None else a\nreturn a",
    ),
    Case(
        "a `match` statement",
        "match x.question:\n    case 'a b':\n        return await self.other(x)\n    case 'c':\n"
        "        return Answer(text='c')\n    case _:\n        return await self.loose(x)",
        "return (await self.other(x) if x.question == 'a b' else Answer(text='c') if x.question == 'c' "
        "else await self.loose(x))",
        "other = dx.ChainOfThought(Ask, Answer)",
    ),
    Case(
        "a module is chosen by a value",
        "d = await self.steps[len(x.hints) > 1](x)\nreturn Answer(text=d.text)",
        "d = await self.steps[1](x) if len(x.hints) > 1 else await self.steps[0](x)\nreturn Answer(text=d.text)",
        LISTED,
    ),
    Case(
        "a program is chosen by a value",
        "f = await dx.map(self.steps, [x])\nreturn Answer(text=f[0].text)",
        "f = await dx.map(self.steps[0], [x])\nreturn Answer(text=f[0].text)",
        LISTED,
    ),
    Case(
        "is used inside an expression",
        "f = self.loose if x.deep else self.other\nreturn await f(x)",
        "return await self.loose(x) if x.deep else await self.other(x)",
        "other = dx.ChainOfThought(Ask, Answer)",
    ),
    Case(
        "dx.cond with other arguments than four",
        "return await dx.cond(x.deep, self.loose, self.other, *[x])",
        "return await dx.cond(x.deep, self.loose, self.other, x)",
        "other = dx.ChainOfThought(Ask, Answer)",
    ),
    Case(
        "dx.map with other arguments than two",
        "f = await dx.map(self.loose, *[[x]])\nreturn f[0]",
        "f = await dx.map(self.loose, [x])\nreturn f[0]",
    ),
    Case(
        "a condition in a comprehension over programs",
        "d = [await p(x) for p in self.steps if x.deep]\nreturn Answer(text=str(len(d)))",
        "d = [await p(x) for p in self.steps] if x.deep else []\nreturn Answer(text=str(len(d)))",
        LISTED,
    ),
    # --- loops
    Case(
        "a `for` loop over values",
        "d = []\nfor h in x.hints:\n    d.append(await self.loose(Ask(question=h)))\nreturn Answer(text=str(d))",
        "d = [await self.loose(Ask(question=h)) for h in x.hints]\nreturn Answer(text=str(d))",
    ),
    Case(
        "a `for` loop over values",
        "t = ''\nfor h in x.hints:\n    t = h + t\nreturn Answer(text=t)",
        "return Answer(text=joined(x.hints))",
    ),
    Case(
        "a `while` loop",
        "a, n = await self.loose(x), 0\nwhile n < 3 and a.source != '00':\n"
        "    a = await self.loose(Ask(question=a.text))\n    n += 1\nreturn a",
        "a = await self.loose(x)\nfor _ in range(3):\n"
        "    a = a if a.source == '00' else await self.loose(Ask(question=a.text))\nreturn a",
    ),
    Case(
        "a loop that ends by a value",
        "a = await self.loose(x)\nfor _ in range(3):\n    if a.source < '8':\n        break\n"
        "    a = await self.loose(Ask(question=a.text))\nreturn a",
        "a = await self.loose(x)\nfor _ in range(3):\n"
        "    a = a if a.source < '8' else await self.loose(Ask(question=a.text))\nreturn a",
    ),
    Case(
        "a `for` loop of 65 steps",
        f"t = ''\nfor h in {tuple('a' * 65)!r}:\n    t = h + t\nreturn Answer(text=t)",
        f"return Answer(text=joined({list('a' * 65)!r}))",
    ),
    Case(
        "a `for` loop of up to 17 steps",
        "a = await self.loose(x)\nfor _ in range(self.rounds):\n"
        "    a = await self.loose(Ask(question=a.text))\nreturn a",
        "a = await self.loose(x)\nfor _ in range(self.fewer):\n"
        "    a = await self.loose(Ask(question=a.text))\nreturn a",
        ROUNDS.format(hi=17),
        "fewer: dx.Var[int] = dx.var(2, lo=1, hi=16)",
    ),
    Case(
        "the `else` of a loop",
        "t = ''\nfor _ in range(self.rounds):\n    t += 'a'\nelse:\n    t += 'b'\nreturn Answer(text=t)",
        "t = ''\nfor _ in range(self.rounds):\n    t += 'a'\nt += 'b'\nreturn Answer(text=t)",
        ROUNDS.format(hi=3),
    ),
    Case(
        "is left before its end",
        "t = ''\nfor _ in range(self.rounds):\n    t += 'a'\n    continue\nreturn Answer(text=t)",
        "t = ''\nfor _ in range(self.rounds):\n    t += 'a'\nreturn Answer(text=t)",
        ROUNDS.format(hi=3),
    ),
    Case(
        "is another program, or a list that grows",
        "p = self.steps[0]\nfor at in range(self.rounds):\n    p = self.steps[1]\nd = await p(x)\n"
        "return Answer(text=d.text)",
        "last = 0\nfor at in range(self.rounds):\n    last = 1\n"
        "d = await self.steps[1](x) if last == 1 else await self.steps[0](x)\nreturn Answer(text=d.text)",
        LISTED + "rounds: dx.Var[int] = dx.var(1, lo=0, hi=2)",
    ),
    # --- statements
    Case(
        "a `try` statement",
        "try:\n    return await self.loose(x)\nexcept dx.LMError:\n    return await self.other(x)",
        "return await self.safe(x)",
        "other = dx.ChainOfThought(Ask, Answer)",
        "safe = dx.fallback(dx.Predict(Ask, Answer), dx.ChainOfThought(Ask, Answer))",
    ),
    Case(
        "a `try` statement",
        "try:\n    n = int(x.question)\nexcept ValueError:\n    n = -1\nreturn Answer(text=str(n))",
        "return Answer(text=str(number(x.question)))",
    ),
    Case(
        "a `with` statement",
        "n = 0\nwith contextlib.suppress(ValueError):\n    n = int(x.question)\nreturn Answer(text=str(n))",
        "return Answer(text=str(quietly(x.question)))",
    ),
    Case(
        "an `async with` statement",
        "async with asyncio.TaskGroup() as g:\n    a, b = g.create_task(self.loose(x)), g.create_task(self.first(x))\n"
        "return Answer(text=a.result().text + b.result().text)",
        "a, b = await asyncio.gather(self.loose(x), self.first(x))\nreturn Answer(text=a.text + b.text)",
    ),
    Case(
        "an `async for` loop",
        "t = ''\nasync for tick in ticks(x.question):\n    t = tick + t\nreturn Answer(text=t)",
        "return Answer(text=joined(await collected(x.question)))",
    ),
    Case(
        "an `async for`",
        "return Answer(text=str([tick async for tick in ticks(x.question)]))",
        "return Answer(text=str(await collected(x.question)))",
    ),
    Case("an `assert`", f"assert isinstance(x.question, str)\n{LOOSE}", f"checked(x.question)\n{LOOSE}"),
    Case(
        "a `raise`",
        "if False:\n    pass\nelse:\n    raise ValueError(x.question)",
        "refused('never')\nreturn Answer(text='')",
    ),
    Case("a `del`", f"t = x.question\ndel t\n{LOOSE}", f"t = x.question\n{LOOSE}"),
    Case(
        "an `import` inside the body",
        "import asyncio as later\nreturn Answer(text=str(later.sleep is None))",
        "return Answer(text=str(asyncio.sleep is None))",
    ),
    Case(
        "a `global` statement", "global COUNT\nreturn Answer(text=str(COUNT[0]))", "return Answer(text=str(counted()))"
    ),
    Case(
        "a function defined inside the body",
        "def twice(text):\n    return text * 2\nreturn Answer(text=twice(x.question))",
        "return Answer(text=doubled(x.question))",
    ),
    Case(
        "a function defined inside the body",
        "async def one(h):\n    return (await self.loose(Ask(question=h))).text\n"
        "return Answer(text=str(await asyncio.gather(*(one(h) for h in x.hints))))",
        "return Answer(text=str(await asyncio.gather(*(self.one(h) for h in x.hints))))",
        then="async def one(self, h):\n    return (await self.loose(Ask(question=h))).text",
    ),
    Case(
        "a class defined inside the body",
        "class A: pass\nreturn Answer(text=x.question)",
        "return Answer(text=x.question)",
    ),
    # --- values
    Case(
        "an assignment in place",
        "t = list(x.hints)\nu = t\nt += ['a']\nreturn Answer(text=str(t))",
        "t = list(x.hints)\nu = t\nt = [*t, *['a']]\nreturn Answer(text=str(t))",
    ),
    Case(
        "an assignment in place",
        "t = {'a': x.question}\nt |= {'b': 'c'}\nreturn Answer(text=str(t))",
        "t = {'a': x.question}\nt = t | {'b': 'c'}\nreturn Answer(text=str(t))",
    ),
    Case(
        "a list that grows in place",
        "t = ['a']\nu = [t]\nt = ['b']\nt += x.hints\nreturn Answer(text=str(t))",
        "t = ['a']\nu = [t]\nt = ['b']\nt = [*t, *x.hints]\nreturn Answer(text=str(t))",
    ),
    Case(
        "changes a value in place",
        "t = list(x.hints)\nt.sort()\nreturn Answer(text=str(t))",
        "t = list(x.hints)\nt = sorted(t)\nreturn Answer(text=str(t))",
    ),
    Case(
        "an assignment to an attribute",
        "a = await self.loose(x)\na.extra = 1\nreturn a",
        "a = await self.loose(x)\nextra = 1\nreturn a",
    ),
    Case(
        "an assignment to an item",
        "t = {}\nt['a'] = x.question\nreturn Answer(text=str(t))",
        "t = {}\nt = {**t, 'a': x.question}\nreturn Answer(text=str(t))",
    ),
    Case(
        "unpacking with `*`",
        "a, *b = [x.question, *x.hints]\nreturn Answer(text=a, source=str(b))",
        "ts = [x.question, *x.hints]\na, b = ts[0], ts[1:]\nreturn Answer(text=a, source=str(b))",
    ),
    Case(
        "unpacking of a value of unknown length",
        "a, b = (x.question + ' b').split(' ', 1)\nreturn Answer(text=a + b)",
        "ts = (x.question + ' b').split(' ', 1)\na, b = ts[0], ts[1]\nreturn Answer(text=a + b)",
    ),
    Case(
        "unpacking of the programs",
        "a, b = self.table\nd = await self.table[a](x)\nreturn Answer(text=d.text)",
        "a, b = self.table['a'], self.table['b']\nd = await a(x)\nreturn Answer(text=d.text)",
        LISTED,
    ),
    Case(
        "an assignment inside an expression",
        "return Answer(text=(y := x.question) + y)",
        "y = x.question\nreturn Answer(text=y + y)",
    ),
    Case("a statement that only has an effect", f"x.question + 'a'\n{LOOSE}", LOOSE),
    Case(
        "is read before it has a value",
        "for _ in range(0):\n    t = ''\nreturn Answer(text=t or 'a') if t else None",
        "t = 'a'\nfor _ in range(0):\n    t = ''\nreturn Answer(text=t)",
    ),
    Case(
        "an iterator that is read through once",
        "p = zip(x.hints, x.hints)\nreturn Answer(text=str([await self.loose(Ask(question=a + b)) for a, b in p]))",
        "p = list(zip(x.hints, x.hints))\n"
        "return Answer(text=str([await self.loose(Ask(question=a + b)) for a, b in p]))",
    ),
    # --- names that Python refuses to follow
    Case(
        "locals reads every local name",
        "t = x.question\nreturn Answer(text=str(sorted(locals())))",
        "t = x.question\nreturn Answer(text=str(named(self=0, t=t, x=x)))",
    ),
    Case(
        "globals reads every global name",
        "return Answer(text=str(globals()['COUNT'][0]))",
        "return Answer(text=str(counted()))",
    ),
    Case(
        "vars reads names",
        "t = 1\nreturn Answer(text=str(sorted(vars())))",
        "return Answer(text=str(named(self=0, t=1, x=x)))",
    ),
    Case("eval runs text", "return Answer(text=eval('x.question * 2'))", "return Answer(text=evaluated(x.question))"),
    Case(
        "exec runs text",
        "exec('COUNT[0] += 0')\nreturn Answer(text=x.question)",
        "acts('')\nreturn Answer(text=x.question)",
    ),
    Case(
        "setattr changes an object",
        "t = setattr(COUNT, 'a', 1) if x.question == 'never' else 0\n" + LOOSE,
        "changed(x.question)\n" + LOOSE,
    ),
    Case(
        "delattr changes an object",
        "t = delattr(COUNT, 'a') if x.question == 'never' else 0\n" + LOOSE,
        "changed(x.question)\n" + LOOSE,
    ),
    Case(
        "next advances an iterator",
        "return Answer(text=next((h for h in x.hints if h), 'none'))",
        "return Answer(text=first_of(x.hints))",
    ),
    Case(
        "input waits for a person",
        "t = input() if x.question == 'never' else x.question\nreturn Answer(text=t)",
        "return Answer(text=x.question)",
    ),
    Case(
        "super calls the parent's method",
        "t = super().__repr__()\nreturn Answer(text=str(len(t) * 0))",
        "return Answer(text=str(0))",
    ),
    Case(
        "it reads the clock",
        "t = time.time()\nreturn Answer(text=str(t > 0))",
        "t = 1.0\nreturn Answer(text=str(t > 0))",
    ),
    # --- calls
    Case(
        "the program itself is handed to Python",
        "return Answer(text=str(getattr(self, 'none', x.question)))",
        "return Answer(text=x.question)",
    ),
    Case(
        "is used inside an expression",
        "return await helped(self.loose, x)",
        "return await self.helped(x)",
        "",
        "async def helped(self, x):\n    return await self.loose(x)",
    ),
    Case(
        "are used inside an expression",
        "return Answer(text=str([p.input_schema is Ask for p in list(self.steps)]))",
        "a, b = await self.steps[0](x), await self.steps[1](x)\nreturn Answer(text=str([True, True]))",
        LISTED,
    ),
    Case(
        "are called at once",
        "return Answer(text=str(await self.steps(x)) if x.question == 'never' else 'a')",
        "return Answer(text=str(await self.steps[0](x)) if x.question == 'never' else 'a')",
        LISTED,
    ),
    Case(
        "is a program that this one does not own",
        "return await outside(x)",
        "return await self.owned(x)",
        then="owned = dx.Predict(Ask, Answer)",
    ),
    Case("of a module is used", "return self.loose.run(x)", LOOSE),
    Case("a module called with anything but one", "return await self.loose(*[x])", LOOSE),
    Case(
        "a call with * or **",
        "return Answer(text=await look_up(**{'q': x.question}))",
        "return Answer(text=await look_up(q=x.question))",
    ),
    Case(
        "a call is awaited twice",
        "p = self.loose(x)\na = await p\nb = await p if x.question == 'never' else a\nreturn b",
        "p = self.loose(x)\na = await p\nb = a\nreturn b",
    ),
    Case(
        "a call is awaited on a condition",
        "p = self.first(x)\nd = await p if x.question else Draft(text='')\nreturn Answer(text=d.text)",
        "d = await self.first(x) if x.question else Draft(text='')\nreturn Answer(text=d.text)",
    ),
    Case("it awaits something other than a call", "p = self.loose(x)\nreturn await (p if x.question else p)", LOOSE),
    Case("a call is never awaited", f"p = self.first(x)\n{LOOSE}", f"p = await self.first(x)\n{LOOSE}"),
    Case(
        "an await inside a part that is evaluated on a condition",
        "d = x.deep and await self.first(x)\nreturn Answer(text=d.text if d else '')",
        "d = await self.first(x) if x.deep else None\nreturn Answer(text=d.text if d else '')",
    ),
    Case(
        "an await inside a comprehension's condition",
        "return Answer(text=str([h for h in x.hints if (await self.loose(Ask(question=h))).source > '8']))",
        "a = [await self.loose(Ask(question=h)) for h in x.hints]\n"
        "return Answer(text=str([h for h, b in zip(x.hints, a) if b.source > '8']))",
    ),
    Case(
        "create_task starts a task",
        "t = asyncio.create_task(self.loose(x))\nd = await self.first(x)\nreturn Answer(text=(await t).text + d.text)",
        "a, d = await asyncio.gather(self.loose(x), self.first(x))\nreturn Answer(text=a.text + d.text)",
    ),
    Case("ensure_future starts a task", "return await asyncio.ensure_future(self.loose(x))", LOOSE),
    Case("wait_for wraps a call", "return await asyncio.wait_for(self.loose(x), 5)", LOOSE),
    Case("shield wraps a call", "return await asyncio.shield(self.loose(x))", LOOSE),
    Case(
        "wait wraps calls",
        "d, _ = await asyncio.wait([asyncio.sleep(0)] * 0) if x.question == 'n' else (1, 2)\n" + LOOSE,
        LOOSE,
    ),
    Case("as_completed wraps calls", "return [await d for d in asyncio.as_completed([self.loose(x)])][0]", LOOSE),
    Case(
        "asyncio.gather with return_exceptions=",
        "(a,) = await asyncio.gather(self.loose(x), return_exceptions=True)\nreturn a",
        "(a,) = await asyncio.gather(self.loose(x))\nreturn a",
    ),
    Case(
        "asyncio.gather over a list of calls beside others",
        "a, *b = await asyncio.gather(self.loose(x), *(self.loose(Ask(question=h)) for h in x.hints))\n"
        "return Answer(text=a.text + str(b))",
        "a = await self.loose(x)\nb = await asyncio.gather(*(self.loose(Ask(question=h)) for h in x.hints))\n"
        "return Answer(text=a.text + str(b))",
    ),
    Case(
        "asyncio.gather over something other than a list",
        "r = await asyncio.gather(*((self.loose(x),) * 1))\nreturn r[0]",
        "r = await asyncio.gather(*(self.loose(y) for y in [x]))\nreturn r[0]",
    ),
    Case(
        "asyncio.gather of something other than calls",
        "a = await asyncio.gather((self.loose(x)) if x else None)\nreturn a[0]",
        "a = await asyncio.gather(self.loose(x))\nreturn a[0]",
    ),
    Case(
        "calls of a list act on the world",
        "return Answer(text=str(await asyncio.gather(*(self.acting(acts(h)) for h in x.hints))))",
        "hs = [acts(h) for h in x.hints]\nreturn Answer(text=str(await asyncio.gather(*(self.acting(h) for h in hs))))",
        "async def acting(self, text):\n    return acts(await fetch(text))",
    ),
    Case(
        "calls itself",
        "return await self.again(x)",
        LOOSE,
        "async def again(self, x):\n    return await self.again(x) if x.question == 'never' else await self.loose(x)",
    ),
    Case(
        "its body takes *args or **kwargs",
        "return await self.many(x)",
        "return await self.one(x)",
        "async def many(self, *xs):\n    return await self.loose(xs[0])",
        "async def one(self, x):\n    return await self.loose(x)",
    ),
    Case(
        "has no plain default",
        "return await self.many(x)",
        "return await self.many(x, ())",
        "async def many(self, x, more=()):\n    return await self.loose(x)",
    ),
    Case(
        "the plain method 'asked' uses the module 'loose'",
        "return await self.asked(x)",
        "return await self.awaited(x)",
        "def asked(self, x):\n    return self.loose(x)",
        "async def awaited(self, x):\n    return await self.loose(x)",
    ),
    Case("TaskGroup starts tasks", f"g = str(asyncio.TaskGroup())\n{LOOSE}", LOOSE),
    Case("timeout wraps calls", f"t = asyncio.timeout(len(x.question) + 5)\n{LOOSE}", LOOSE),
    Case(
        "a call is called without `await`",
        "return await self.second(self.first(x))",
        "return await self.second(await self.first(x))",
    ),
    Case(
        "a method is called without `await`",
        "t = str(self.one(x))\nreturn Answer(text=t)",
        "t = str(await self.one(x))\nreturn Answer(text=t)",
        "async def one(self, x):\n    return await self.loose(x)",
    ),
    Case(
        "is called inside another expression",
        "t = str(self.loose(x))\nreturn Answer(text=t)",
        "t = str(await self.loose(x))\nreturn Answer(text=t)",
    ),
    Case(
        "fetch is called without `await`",
        "t = str([fetch(x.question), 1])\nreturn Answer(text=t)",
        "t = str([await fetch(x.question), 1])\nreturn Answer(text=t)",
    ),
    Case(
        "is called with arguments that it does not take",
        "return await self.one(x, x)",
        "return await self.one(x)",
        "async def one(self, x):\n    return await self.loose(x)",
    ),
    Case("is used as a value", "return await self.second(self.first)", "return await self.second(await self.first(x))"),
    Case(
        "3 values are unpacked to 2 names",
        "a, b = x.question, 'b', 'c'\nreturn Answer(text=a + b)",
        "a, b, c = x.question, 'b', 'c'\nreturn Answer(text=a + b)",
    ),
    Case(
        "the constant",
        "return await self.one(x)",
        "return await self.two(x)",
        "async def one(self, x, more=b''):\n    return await self.loose(x)",
        "async def two(self, x, more=''):\n    return await self.loose(x)",
    ),
    Case(
        "a comprehension acts on the world, and so does its condition",
        "return Answer(text=str([acts((await self.loose(Ask(question=h))).text) for h in x.hints if acts(h)]))",
        "hs = [h for h in x.hints if acts(h)]\n"
        "return Answer(text=str([acts((await self.loose(Ask(question=h))).text) for h in hs]))",
    ),
    Case(
        "arguments of calls that are awaited later act",
        "c = [self.loose(Ask(question=acts(h))) for h in x.hints]\nreturn Answer(text=str(await asyncio.gather(*c)))",
        "return Answer(text=str(await asyncio.gather(*[self.loose(Ask(question=acts(h))) for h in x.hints])))",
    ),
]
"""Offending and remedied bodies by reason."""

STAYS = {
    "two tools are named {}": "tools that one function made; the remedy is about their definitions",
    "{} is not an `async def`": "a generator under `types.coroutine`",
    "its body is a {}, not a plain function": "what calls it is no text that could be read",
    "its source is not available": "made by `exec`, or in a notebook that is gone",
    "its source cannot be parsed on its own": "a lambda over several lines",
    "its body is an expression (a lambda)": "a lambda",
    "its source changed after it was imported": "compiles after a restart",
    "its class says what its attributes are (`__getattribute__`)": "nothing can be known of its attributes",
    "its body is not an `async def`": "see test_certain.py",
    "an expression is nested too deeply": "see test_frontend_limits.py",
    "a `break` or `continue` outside of a loop": "Python itself refuses it",
    "a `nonlocal` statement": "Python itself refuses it at the top of a method",
    "a `return` without a value": "see test_certain.py",
    "a `yield`": "see test_certain.py",
    "a `yield from`": "see test_certain.py",
}
"""Reasons that no rewriting of the body removes, or that are tested elsewhere."""
