"""What `estimate` gives: ranges for one run and for each of its calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from dspex.compiler.estimate.amounts import Amount

__all__ = ["Estimates", "NodeEstimate", "RunEstimate", "as_range", "dollars", "tokens"]


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """One run of the program; retries after failures of a provider are not counted.

    Attributes:
        calls: Requests.
        input: Input tokens.
        output: Output tokens.
        usd: Dollars; None when a model has no known price.
        depth: Calls that have to wait for each other: the latency, in calls.
    """

    calls: Amount
    input: Amount
    output: Amount
    usd: Amount | None
    depth: Amount

    def as_json(self) -> dict[str, object]:
        """As plain JSON data."""
        return {
            "calls": as_range(self.calls),
            "input_tokens": as_range(self.input),
            "output_tokens": as_range(self.output),
            "usd": None if self.usd is None else as_range(self.usd),
            "depth": as_range(self.depth),
        }


@dataclass(frozen=True, slots=True)
class NodeEstimate:
    """The calls of one language-model node in one run.

    Attributes:
        node: Its number in the graph.
        module: Path of its module.
        model: ``provider/model``; None when none is chosen.
        calls, input, output, usd: Of all its calls.
        static: Share of a prompt, from its beginning, that is the same at every call; None where the rest is not known.
        one, one_output: Tokens of one call.
    """

    node: int
    module: str
    model: str | None
    calls: Amount
    input: Amount
    output: Amount
    usd: Amount | None
    static: float | None
    one: Amount
    one_output: Amount

    def as_json(self) -> dict[str, object]:
        """As plain JSON data."""
        return {
            "node": self.node,
            "module": self.module,
            "model": self.model,
            "calls": as_range(self.calls),
            "input_tokens": as_range(self.input),
            "output_tokens": as_range(self.output),
            "usd": None if self.usd is None else as_range(self.usd),
            "static_share": None if self.static is None else round(self.static, 3),
        }


@dataclass(frozen=True, slots=True)
class Estimates:
    """Calls, tokens and dollars before a call is made. `str` gives a table.

    Attributes:
        name: The program.
        run: One run: over examples, the mean of what is expected, from the least to the most.
        runs: Each example's run, in their order; () without examples.
        nodes: The language-model nodes that may run.
        models: What they call.
        unpriced: Why there are no dollars; then `run.usd` is None, never zero.
        unknown: What cannot be told, and why; then numbers are lower bounds.
        guessed: Texts, as ``module.field``, whose length neither an example nor a demonstration shows.
    """

    name: str
    run: RunEstimate
    runs: tuple[RunEstimate, ...]
    nodes: tuple[NodeEstimate, ...]
    models: tuple[str, ...]
    unpriced: tuple[str, ...]
    unknown: tuple[str, ...]
    guessed: tuple[str, ...]

    @property
    def lower_bound(self) -> bool:
        """Whether the numbers leave something out that cannot be told."""
        return bool(self.unknown)

    def as_json(self) -> dict[str, object]:
        """As plain JSON data; of a range, ``high`` is null where there is no bound."""
        return {
            "models": list(self.models),
            "run": self.run.as_json(),
            "runs": [run.as_json() for run in self.runs],
            "nodes": [node.as_json() for node in self.nodes],
            "lower_bound": self.lower_bound,
            "unpriced": list(self.unpriced),
            "unknown": list(self.unknown),
            "guessed": list(self.guessed),
        }

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A table's rows, the head first and the whole run last."""
        head = ("node", "module", "model", "calls", "input tokens", "output tokens", "dollars", "static")
        body = [
            (
                f"%{n.node}",
                n.module or self.name,
                n.model or "-",
                tokens(n.calls),
                tokens(n.input),
                tokens(n.output),
                dollars(n.usd),
                "-" if n.static is None else f"{n.static:.0%}",
            )
            for n in self.nodes
        ]
        run = self.run
        whole = ("", "one run", "", tokens(run.calls), tokens(run.input), tokens(run.output), dollars(run.usd), "")
        return [head, *body, whole]

    @property
    def remarks(self) -> list[str]:
        """Sentences on what the table rests on."""
        lines = [f"calls that wait for each other: {tokens(self.run.depth)}"]
        lines += [f"lower bound, unknown: {reason}" for reason in self.unknown]
        lines += [f"no dollars: {reason}" for reason in self.unpriced]
        if self.guessed:
            lines.append(f"guessed lengths of text: {', '.join(self.guessed)}; expected= or demonstrations would tell")
        return lines

    def __str__(self) -> str:
        rows = self.rows
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self.remarks]) + "\n"

    def _repr_html_(self) -> str:
        head, *body = self.rows
        cells = "".join(f"<th>{escape(cell)}" for cell in head)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in body)
        notes = "".join(f"<li>{escape(line)}" for line in self.remarks)
        return f"<table><thead><tr>{cells}<tbody>{rows}</table><ul>{notes}</ul>"


def as_range(amount: Amount) -> dict[str, float | None]:
    """``{low, high, expected}``."""

    def rounded(number: float | None) -> float | None:
        return None if number is None else float(f"{number:.6g}")

    return {"low": rounded(amount.low), "high": rounded(amount.high), "expected": rounded(amount.point)}


def tokens(amount: Amount) -> str:
    """``≈140 (120..180)``; ``≥ 120`` where there is no bound."""
    return _shown(amount, lambda number: f"{number:.0f}" if number >= 10 or number % 1 == 0 else f"{number:.1f}")


def dollars(amount: Amount | None) -> str:
    """Dollars likewise; ``unknown`` for None."""
    if amount is None:
        return "unknown"
    if amount.high == 0:
        return "0"
    return _shown(amount, lambda number: f"${number:.2g}" if number < 1 else f"${number:.2f}")


def _shown(amount: Amount, write: Callable[[float], str]) -> str:
    low = write(amount.low)
    about = "" if amount.point is None else f"≈{write(amount.point)}"
    if amount.high is None:
        rest = f"≥{low}"
    elif write(amount.high) == low:
        return low
    else:
        rest = f"{low}..{write(amount.high)}"
    return f"{about} ({rest})" if about else rest
