import dspex as dx


class Ask(dx.Schema):
    question: str


class Answer(dx.Schema):
    answer: str


class Note(dx.Schema):
    text: str = dx.field(description="a note")
    weight: float = dx.field(0.5, ge=0, le=1)
