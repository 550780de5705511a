"""Every line that is marked must be refused by a type checker, and no other."""

from typing import Literal

from right import QABot, accuracy, bot, brief, summarize
from schemas import Answer, Ask, Note

import dspex as dx


def note_accuracy(got: Note, want: Note) -> float:
    return float(got == want)


@dx.metric
def note_brief(run: dx.Run[Ask, Note]) -> float:
    return 1.0


def texts(got: Answer, want: Answer) -> str:
    return "good"


class Other(dx.Program[Ask, Answer]):
    style: dx.Var[Literal["terse", "detailed"]] = dx.var("long")  # WRONG literal
    k: dx.Var[int] = dx.var("four")  # WRONG default
    size: dx.Var[int] = dx.var(4, lo=1, hi=8)
    rules = [style.is_("brief")]  # WRONG literal

    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(answer=self.size)  # WRONG value


def search(data: dx.Dataset[Ask, Answer], notes: dx.Dataset[Answer, Note]) -> None:
    bot.optimize(data, maximize=note_accuracy)  # WRONG metric
    bot.optimize(data, maximize=note_brief)  # WRONG metric
    bot.optimize(data, maximize=texts)  # WRONG metric
    bot.optimize(notes, maximize=accuracy)  # WRONG data
    dx.evaluate(bot, data, note_accuracy)  # WRONG metric
    dx.evaluate(bot, notes, accuracy)  # WRONG data
    bot.optimize(data, maximize=brief)


summarize >> bot  # WRONG composition
bot >> bot  # WRONG composition
bot >> summarize
dx.Predict(Ask, Answer) >> dx.Predict(Ask, Note)  # WRONG composition
dx.select(a=dx.Predict(Ask, Answer), b=dx.Predict(Ask, Note)).run(Note(text="x"))  # WRONG input
bot.run(Answer(answer="x"))  # WRONG input
bot.k = 3  # WRONG assignment
Note(weight="heavy")  # WRONG type
number: str = QABot().k  # WRONG type
dx.Predict(Ask, Answer, format="xml")  # WRONG literal
dx.fallback(dx.Predict(Ask, Answer), dx.Predict(Ask, Note)).run(Note(text="x"))  # WRONG input
dx.vote(summarize, dx.Predict(Ask, Note)).run(Ask(question="?"))  # WRONG composition
dx.race(bot, bot).run(Answer(answer="x"))  # WRONG input
dx.when(lambda x: x.nothing, bot, bot)  # WRONG field
words: int = dx.computed(len, QABot.style)  # WRONG type
