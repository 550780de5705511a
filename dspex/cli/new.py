"""`dspex new NAME`: a small project that runs as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from dspex.cli.output import emit, envelope, must_be_writable
from dspex.errors import UsageError

BOT = '''"""Answers questions about capitals. `dspex explain bot:QABot` shows what the compiler makes of it."""

from __future__ import annotations

import dspex as dx


class Ask(dx.Schema):
    question: str


class Answer(dx.Schema):
    answer: str = dx.field(description="one name, nothing else")


class QABot(dx.Program[Ask, Answer]):
    """Answer the question with one name."""

    style: dx.Var[str] = dx.var("short", choices=("short", "exact"))
    answer = dx.Predict(Ask, Answer, instruction="Answer the question. Give a {style} answer.", max_tokens=24)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.answer(x)


def accuracy(got: Answer, want: Answer) -> bool:
    return got.answer.strip().rstrip(".").casefold() == want.answer.casefold()
'''

README = """# {name}

    dspex run bot:QABot "What is the capital of France?" --lm local/smollm2
    dspex optimize bot:QABot train.jsonl --metric bot:accuracy --budget-calls 200 --lm local/smollm2
    dspex explain bot:QABot
"""

PAIRS = (
    "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Austria Vienna, Poland "
    "Warsaw, Greece Athens, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland "
    "Dublin, Belgium Brussels, Hungary Budapest, Romania Bucharest, Bulgaria Sofia, Croatia Zagreb, "
    "Serbia Belgrade, Ukraine Kyiv, Estonia Tallinn, Latvia Riga, Lithuania Vilnius, Iceland Reykjavik, "
    "Japan Tokyo, China Beijing, India Delhi, Thailand Bangkok, Vietnam Hanoi, Egypt Cairo, Kenya "
    "Nairobi, Ghana Accra, Morocco Rabat, Nigeria Abuja, Canada Ottawa, Cuba Havana, Peru Lima, Chile "
    "Santiago, Ecuador Quito, Colombia Bogota, Russia Moscow, Turkey Ankara, Iran Tehran, Iraq Baghdad, "
    "Nepal Kathmandu, Jordan Amman, Lebanon Beirut, Syria Damascus"
)


@click.command("new")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(name: str, as_json: bool) -> None:
    """Create a folder NAME with a program, a data set and a metric that run as they are."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UsageError("DX8304", f"a project name is letters, digits, - and _, beginning with a letter; got {name!r}")
    folder = Path(name)
    if folder.exists():
        raise UsageError("DX8305", f"{folder} exists already", fix="choose another name")
    must_be_writable(name)
    folder.mkdir()
    rows = [pair.split() for pair in PAIRS.split(", ")]
    lines = [json.dumps({"question": f"What is the capital of {land}?", "answer": city}) for land, city in rows]
    files = {
        "bot.py": BOT,
        "train.jsonl": "\n".join(lines) + "\n",
        "README.md": README.format(name=name),
    }
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    if as_json:
        emit(envelope(folder=str(folder), files=sorted(files)))
        return
    click.echo(f"created {folder}/ with {', '.join(files)}")
    click.echo(f'next: cd {folder} && dspex run bot:QABot "What is the capital of France?" --lm local/smollm2')
