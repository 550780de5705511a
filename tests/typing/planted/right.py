from typing import Literal, assert_type

from schemas import Answer, Ask, Note

import dspex as dx


class QABot(dx.Program[Ask, Answer]):
    style: dx.Var[Literal["terse", "detailed"]] = dx.var("terse")
    k: dx.Var[int] = dx.var(4, lo=1, hi=8)
    temperature: dx.Var[float] = dx.var(0, lo=0, hi=1, when=style.is_("detailed"))
    careful = dx.var(False)
    rules = [style.is_("terse").implies(k <= 4), (k >= 1) & (k + 1 <= 9)]

    solver = dx.select(
        predict=dx.Predict(Ask, Answer, temperature=temperature, demos_k=k), cot=dx.ChainOfThought(Ask, Answer)
    )

    async def __call__(self, x: Ask, /) -> Answer:
        assert_type(self.k, int)
        return await self.solver(x)


@dx.program
async def summarize(x: Answer) -> Note:
    """Summarize."""
    dx.infer()


@dx.program
def summarize_too(x: Answer) -> Note:
    """Summarize."""
    dx.infer()


def accuracy(got: Answer, want: Answer) -> float:
    return float(got == want)


async def slow_accuracy(got: Answer, want: Answer) -> bool:
    return got == want


@dx.metric
def brief(run: dx.Run[Ask, Answer]) -> dx.Score:
    return dx.Score(1.0 / len(run.got.answer))


@dx.metric
async def brief_too(run: dx.Run[Ask, Answer]) -> float:
    return 1.0


bot = QABot()
assert_type(QABot.k, dx.Var[int])
assert_type(bot.k, int)
assert_type(bot.style, Literal["terse", "detailed"])
assert_type(bot.temperature, float)
assert_type(bot.careful, bool)
assert_type(bot.bind(k=3), QABot)
assert_type(bot.run(Ask(question="?")), Answer)
assert_type(bot.batch([Ask(question="?")]), list[Answer])
assert_type(bot.batch([Ask(question="?")], on_error="return"), list[Answer | Exception])
assert_type((bot >> summarize).run(Ask(question="?")), Note)
assert_type((bot >> summarize_too).run(Ask(question="?")), Note)
assert_type(dx.Predict(Ask, Answer), dx.Predict[Ask, Answer])
assert_type(dx.Predict(Ask, Answer).run(Ask(question="?")), Answer)
assert_type(brief, dx.Metric[Ask, Answer])
assert_type(Note(text="x").weight, float)


def search(data: dx.Dataset[Ask, Answer]) -> None:
    assert_type(bot.optimize(data, maximize=accuracy), QABot)
    assert_type(dx.evaluate(bot, data, accuracy), dx.Evaluation[Ask, Answer])
    dx.evaluate(bot, data, slow_accuracy, batch="nightly")
    dx.evaluate(bot, data, lambda got, want: got.answer == want.answer, batch=dx.Batches("nightly", quiet=1))
    bot.optimize(data, maximize=slow_accuracy)
    bot.optimize(data, maximize=brief)
    bot.optimize(data, maximize=brief_too)
    bot.optimize(data, maximize=dx.exact_match)
    bot.optimize(data, maximize=lambda got, want: got.answer == want.answer)
