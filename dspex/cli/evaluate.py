"""`dspex evaluate TARGET DATA --metric M`: the score of a program on a data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dspex.cli.budget import budget_options
from dspex.cli.output import DONE, channel, emit, envelope, error_document, exit_code, must_be_writable, note

if TYPE_CHECKING:
    from dspex.lm.spend import Budget


@click.command("evaluate")
@click.argument("target")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--metric", required=True, help="module:function taking (got, want).")
@budget_options()
@click.option("--lm", help="Model to use, for example local/smollm2.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Rows in work at once; 64, with --batch all of them.")
@click.option(
    "--batch", type=click.Path(path_type=Path, file_okay=False), help="Send the calls as batches, kept in this folder."
)
@click.option(
    "--batch-interval",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds between two looks at a batch.",
)
@click.option("--exclude-failures", is_flag=True, help="Leave rows that failed out of the score.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--import", "imports", multiple=True, metavar="MODULE", help="Module that an artifact may import.")
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="Public key that has to have signed the artifact."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File for the rows, one JSON object a line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    target: str,
    data: Path,
    metric: str,
    budget: Budget,
    lm: str | None,
    concurrency: int | None,
    batch: Path | None,
    batch_interval: float,
    exclude_failures: bool,
    seed: int,
    imports: tuple[str, ...],
    key: Path | None,
    output: str | None,
    as_json: bool,
) -> int:
    """Run TARGET (module:name, file.py:name or an artifact) on every row of DATA and print its mean score.

    With --batch the calls go as batches of the provider: cheaper, within a day. The same command goes on after an
    interruption, and asks again for rows that failed.
    """
    from dspex.cli.targets import load_callable, load_compiled
    from dspex.evaluation.evaluation import evaluate
    from dspex.executor.batches import Batches

    channel().seed = seed
    must_be_writable(output)
    program = load_compiled(target, imports=imports, key=key)
    score = load_callable(metric)
    found = evaluate(
        program,
        data,
        score,
        lm=lm,
        budget=budget if budget else None,
        concurrency=concurrency,
        on_failure="exclude" if exclude_failures else "worst",
        batch=None if batch is None else Batches(batch, interval=batch_interval, tell=_told(batch)),
        seed=seed,
    )
    spent = found.spent
    channel().settled = {"calls": spent.calls, "tokens": spent.tokens, "usd": spent.usd}
    if output is not None:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows())
        Path(output).write_text("".join(lines), encoding="utf-8")
    # As with a study: where no row has a score, what ended the first of them has ended the command.
    ended = found.outcomes[0].error if len(found.failures) == len(found.outcomes) else None
    if as_json:
        interval = found.score
        means = None if interval is None else {"mean": interval.mean, "low": interval.low, "high": interval.high}
        result = envelope(score=means, rows=found.rows(), output=output)
        if ended is not None:
            result.update(status="failed", stopped_because=ended.message, error=error_document(ended))
        emit(result)
    else:
        click.echo(str(found))
        usd = "unpriced" if spent.usd is None else f"${spent.usd:.4g}"
        note(f"{spent.calls} calls, {spent.tokens} tokens, {usd}")
    return DONE if ended is None else exit_code(ended)


def _told(folder: Path) -> Callable[[str], None]:
    """Tells a person of batches, and once what an interruption means for them."""
    hint = [f"the batches are kept in {folder}: after an interruption the same command goes on with them"]

    def tell(line: str) -> None:
        note(line)
        while hint:
            note(hint.pop())

    return tell
