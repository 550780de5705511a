"""`Module`: a program that is one call of a language model, with the Variables that every such call has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

from dspex.errors import ProgramError
from dspex.program import ports
from dspex.program.computed import Computed
from dspex.program.declare import Declared
from dspex.program.demos import Demo, DemoSet, DemoSource, is_demo_source
from dspex.program.program import Program
from dspex.program.rules import Rule
from dspex.program.schema import Schema, closed_choice, field_variables
from dspex.program.space import same_name
from dspex.program.tree import join
from dspex.program.variables import Choice, Demos, Prior, Text, Var, definition, place, written_at

if TYPE_CHECKING:
    from types import CoroutineType

    from dspex.lm.model import LMLike

__all__ = [
    "ANSWERS",
    "FORMATS",
    "MOST_REPAIRS",
    "SCORINGS",
    "Answers",
    "Format",
    "Module",
    "ModuleSettings",
    "Scoring",
    "argument_problem",
    "unknown_placeholder",
]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

Format = Literal["chat", "completion"]
Scoring = Literal["generate", "logprob", "calibrated"]
FORMATS: tuple[Format, ...] = ("chat", "completion")
Answers = Literal["auto", "schema", "tool", "json", "labels"]
SCORINGS: tuple[Scoring, ...] = ("generate", "logprob", "calibrated")
ANSWERS: tuple[Answers, ...] = ("auto", "schema", "tool", "json", "labels")
MOST_REPAIRS = 5

# {{name}} stands for a literal {name}; any other brace is text, so that JSON in an instruction needs no escapes.
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True, slots=True)
class ModuleSettings(Generic[I, O]):
    """Everything that one bound module asks of a model, with every Variable replaced by its value.

    Attributes:
        path: Dotted path in the program.
        input: Input schema.
        output: Output schema.
        instruction: The task, placeholders filled in.
        demos: Where demonstrations come from.
        demos_k: Use only the last k of what `demos` selects; None for all.
        temperature: Sampling temperature.
        max_tokens: Upper bound on generated tokens.
        format: Chat turns, or one raw prompt to be continued.
        scoring: Generate the answer, or choose it by log-probability, plain or calibrated.
        reasoning: Whether the model reasons before it answers.
        lm: The module's model, else its program's; None leaves the choice to the context.
        input_values: Values of the input fields that are Variables, for inputs that leave them unset.
        prior: For calibrated scoring, the log-probability of each choice apart from any input; None to measure it
            with a content-free input.
        answers: What keeps answers in the form of the output schema.
        repairs: How often the model may be shown what is wrong with its answer.
    """

    path: str
    input: type[I]
    output: type[O]
    instruction: str
    demos: DemoSource
    demos_k: int | None
    temperature: float
    max_tokens: int
    format: Format
    scoring: Scoring
    reasoning: bool
    lm: LMLike | None
    input_values: Mapping[str, object] = field(default_factory=dict[str, object])
    prior: tuple[float, ...] | None = None
    answers: Answers = "auto"
    repairs: int = 1


class Module(Program[I, O]):
    """A program that is one call of a language model.

    By themselves its Variables are ``instruction`` and ``demos``, ``format``, ``scoring`` when the output is one
    closed choice, ``lm`` when several models are given, and ``input.<field>`` for input fields with
    ``variable=True``. An argument given as a value fixes what would be a Variable (except for the first members of
    the instruction's and demonstrations' pools); one given as a Variable is that Variable, by name, of the program
    that owns the module.

    Args:
        input: Input schema.
        output: Output schema.
        instruction: The task; ``{name}`` stands for the value of a Variable of the owning program, ``{{name}}``
            for itself. Without it the schemas' docstrings say the task.
        demos: Demonstrations, or where they come from.
        demos_k: Use only the last k demonstrations that the source selects.
        temperature: Sampling temperature, >= 0.
        max_tokens: Upper bound on generated tokens.
        format: "chat" or "completion"; a Variable unless it is given, or `answers` is other than "auto".
        scoring: "generate", "logprob" or "calibrated"; the latter two need an output of one closed choice.
        lm: The model, or several for the optimizer to choose from.
        prior: For calibrated scoring, the log-probability of each choice apart from any input, in the order of the
            choices. A study fits it (``P.prior``); without it, a content-free input measures it at the first call.
        answers: What keeps answers in the form of the output schema, in chat: "schema", the provider enforces it;
            "tool", the model calls a tool whose arguments are the answer; "json", JSON mode where the model has it;
            "labels", a ``Label: value`` line for each field. Whichever it is, answers are read tolerantly and
            validated. By default ("auto") the strictest that the model can do.
        repairs: How often, at most, the model is shown what is wrong with its answer and asked again, 0 to 5.
    """

    reasons: ClassVar[bool] = False
    prepared: object | None = None
    """Where the executor keeps what it prepared for this module; copies start without it."""

    _scope = False
    arguments: Mapping[str, object]

    def __init__(
        self,
        input: type[I],
        output: type[O],
        *,
        instruction: str | Var[str] | None = None,
        demos: DemoSource | Sequence[Demo] | Var[DemoSource] | None = None,
        demos_k: int | Var[int] | None = None,
        temperature: float | Var[float] | Var[int] = 0.0,
        max_tokens: int | Var[int] = 512,
        format: Format | Var[Format] | Var[str] | None = None,
        scoring: Scoring | Var[Scoring] | Var[str] | None = None,
        lm: LMLike | Sequence[LMLike] | Var[str] | None = None,
        prior: Sequence[float] | None = None,
        answers: Answers | Var[Answers] | Var[str] | None = None,
        repairs: int | Var[int] | None = None,
    ) -> None:
        self.at = definition()
        for side, schema in (("input", input), ("output", output)):
            if not (isinstance(schema, type) and issubclass(schema, Schema)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise self._wrong("DX1502", f"the {side} is a dx.Schema class, got {schema!r}")
        self.input_schema = input
        self.output_schema = output
        self.closed = None if self.reasons else closed_choice(output)
        if isinstance(demos, Sequence):
            demos = DemoSet(demos)
        # A list of models becomes names for the Variable and what they stand for.
        self.models = self._named_models(lm)
        self.fields = field_variables(input)
        self.arguments = {
            "instruction": instruction,
            "demos": demos,
            "demos_k": demos_k,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "format": format,
            "scoring": scoring,
            "lm": tuple(self.models) if self.models else lm,
            "prior": None if prior is None else tuple(prior),
            "answers": answers,
            "repairs": repairs,
        }
        for name, value in self.arguments.items():
            if not isinstance(value, Var):
                self._check(name, value)
        if format == "completion" and self._fixes_answers():
            raise self._wrong(
                "DX1509",
                f"answers={answers!r} is for chat; in a raw prompt the answer goes on with the prompt's labels",
                "leave out format or answers",
            )

    @classmethod
    def dx_refuse_arguments(cls, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        make, own = (cast(FunctionType, vars(one).get("__init__")) for one in (_first_with_init(cls), Module))
        if make is not own:
            return

        from difflib import get_close_matches

        def wrong(code: str, why: str, fix: str) -> ProgramError:
            return ProgramError(code, f"{cls.__name__}: {why}", where=place(written_at()), fix=fix)

        known = make.__kwdefaults__ or {}
        for name in kwargs:
            if name not in known and name not in ("input", "output"):
                near = get_close_matches(name, known, n=1)
                fix = f"did you mean {near[0]}?" if near else f"arguments are {', '.join(known)}"
                raise wrong("DX1509", f"there is no argument {name!r}", fix)
        first = args[0] if args else kwargs.get("input")
        if isinstance(first, str):
            raise wrong(
                "DX1502",
                f"the input and the output are dx.Schema classes, got the text {first!r:.80}",
                "write class Ask(dx.Schema): question: str, and class Answer(dx.Schema): answer: str; "
                f"then dx.{cls.__name__}(Ask, Answer)",
            )
        if len(args) + len({"input", "output"} & kwargs.keys()) == 1:
            missing = "input" if "output" in kwargs else "output"
            raise wrong("DX1502", f"the {missing} schema is missing", f"write dx.{cls.__name__}(Ask, Answer)")

    def _named_models(self, lm: object) -> dict[str, LMLike]:
        if lm is None or isinstance(lm, str | Var) or not isinstance(lm, Sequence):
            return {}
        models: dict[str, LMLike] = {}
        for model in cast("Sequence[LMLike]", lm):
            name = _model_name(model)
            if name in models:
                raise self._wrong("DX1510", f"lm lists the model {name!r} twice", "name each model once")
            models[name] = model
        if not models:
            raise self._wrong("DX1510", "lm is an empty list", "name at least one model, or leave lm out")
        return models

    def _wrong(self, code: str, why: str, fix: str | None = None) -> ProgramError:
        return ProgramError(code, f"{type(self).__name__}: {why}", where=place(self.at), fix=fix)

    def _check(self, name: str, value: object) -> None:
        """Raise DX1509 when the plain `value` does not fit the argument `name`."""
        count = None if self.closed is None else len(self.closed)
        problem = argument_problem(name, value, count, self.output_schema.__name__, reasons=self.reasons)
        if problem is not None:
            raise self._wrong("DX1509", *problem)

    # --- Variables ------------------------------------------------------------------------------

    def dx_root_path(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def owner(self) -> Program[Any, Any] | None:
        """The program whose Variables this module's arguments and placeholders name; None for a root."""
        parent = self.dx_node.parent
        while parent is not None and not parent.is_scope():
            parent = parent.dx_node.parent
        return parent

    def _argument_name(self, variable: Var[Any]) -> str:
        if not variable.name and isinstance(variable, Declared):
            variable.settled()
        return variable.name

    def _owned(self, argument: str) -> Var[Any] | None:
        """The Variable given as `argument` when no owning program has one of that name, else None."""
        variable = self._given(argument)
        if variable is None:
            return None
        owner = self.owner()
        if owner is not None and self._argument_name(variable) in owner.dx_node.values:
            return None
        return variable.settled() if isinstance(variable, Declared) else variable

    def _given(self, argument: str) -> Var[Any] | None:
        """The Variable given as `argument`; None for a plain value."""
        given: object = self.arguments[argument]
        return cast("Var[Any]", given) if isinstance(given, Var) else None

    def dx_variables(self) -> dict[str, Var[Any]]:
        own: dict[str, Var[Any]] = {}
        for argument, given in self.arguments.items():
            if isinstance(given, Var):
                variable = self._owned(argument)
                if variable is not None:
                    self._add(own, variable.name, variable)
            elif (automatic := self._automatic(argument, given)) is not None:
                self._add(own, argument, automatic)
        for name, variable in self.fields.items():
            own[f"input.{name}"] = variable
        for local, members in self.dx_node.grown.items():
            variable = own.get(local)
            if isinstance(variable, Text | Demos):
                own[local] = variable.grown(*cast("tuple[Any, ...]", members))
        return own

    @staticmethod
    def _add(own: dict[str, Var[Any]], name: str, variable: Var[Any]) -> None:
        if own.setdefault(name, variable) is not variable:
            raise same_name(name, own[name], variable)

    def dx_source(self, local: str) -> object:
        for given in self.arguments.values():
            if isinstance(given, Var) and self._argument_name(cast("Var[Any]", given)) == local:
                owner = self.owner()
                # Two instances of one class have the same module twice; that is no sharing.
                path = self.dx_node.path if owner is None else self.dx_node.path.removeprefix(owner.dx_node.path)
                return (None if owner is None else type(owner), path.lstrip("."), self.at)
        return None

    def _automatic(self, argument: str, given: object) -> Var[Any] | None:
        if argument == "instruction":
            return self._at(Text(argument, (cast("str | None", given) or self.default_instruction(),)))
        if argument == "demos":
            return self._at(Demos(argument, (DemoSet() if given is None else cast(DemoSource, given),)))
        if argument == "format" and given is None and not self._fixes_answers():
            return self._at(Choice[str](argument, FORMATS))
        if argument == "scoring" and given is None and self.closed is not None:
            return self._at(Choice[str](argument, SCORINGS))
        calibrates = self.arguments["scoring"] in (None, "calibrated") or self._given("scoring") is not None
        if argument == "prior" and given is None and self.closed is not None and calibrates:
            return self._at(Prior(argument, len(self.closed), when=self._calibrates()))
        if argument == "lm" and self.models:
            return self._at(Choice[str](argument, tuple(self.models)))
        return None

    def _fixes_answers(self) -> bool:
        """Whether a form of answers that only chat has is wanted in any case."""
        return isinstance(wanted := self.arguments["answers"], str) and wanted != "auto"

    def _calibrates(self) -> Rule | None:
        """The condition of the prior; None when the scoring is no Variable."""
        scoring = self._automatic("scoring", self.arguments["scoring"])
        return None if scoring is None or self._hidden("scoring") else scoring.is_("calibrated")

    def _hidden(self, argument: str) -> bool:
        """Whether the owning program has a Variable of this name, which rules would then mean."""
        owner = self.owner()
        return owner is not None and argument in owner.dx_node.values

    def _at(self, variable: Var[Any]) -> Var[Any]:
        variable.at = self.at
        return variable

    def default_instruction(self) -> str:
        """The task when the author writes none: the output's docstring, the input's, else the fields' names."""
        for schema in (self.output_schema, self.input_schema):
            text = schema.__dict__.get("__doc__")
            if isinstance(text, str) and text.strip():
                from inspect import cleandoc

                return cleandoc(text)
        given = ", ".join(f"`{name}`" for name in self.input_schema.model_fields)
        wanted = ", ".join(f"`{name}`" for name in self.output_schema.model_fields)
        return f"Given the fields {given}, produce the fields {wanted}."

    def dx_rules(self) -> tuple[Rule, ...]:
        return ()

    def children(self) -> dict[str, Program[Any, Any]]:
        return {}

    def dx_replace_children(self, visit: Callable[[Program[Any, Any], str, Rule | None], Program[Any, Any]]) -> None:
        pass

    def dx_show(self, values: Mapping[str, object]) -> None:
        pass

    def dx_full_name(self, name: str) -> str:
        own = {variable.name for argument in self.arguments if (variable := self._owned(argument)) is not None}
        owner = self.owner()
        automatic = self.arguments.get(name) is None and name == "scoring" and not self._hidden(name)
        if name in own or owner is None or automatic:
            return join(self.dx_node.path, name)
        return owner.dx_full_name(name)

    # --- what is sent ---------------------------------------------------------------------------

    def _value(self, argument: str, variables: Mapping[str, Var[Any]]) -> object:
        given = self._given(argument)
        values = self.dx_node.values
        if given is None:
            if argument in variables:
                return values.get(argument, variables[argument].default)
            return self.arguments[argument]
        name = self._argument_name(given)
        if name in variables:
            value = self._current(name, variables[name])
        else:
            value = cast("Program[Any, Any]", self.owner()).dx_node.values[name]
        plain = cast(object, value.value) if isinstance(value, Enum) else value
        self._check(argument, plain)
        return plain

    def _current(self, name: str, variable: Var[Any]) -> object:
        """The value of `variable`, one of this module's own."""
        if not isinstance(variable, Computed):
            return self.dx_node.values.get(name, variable.default)
        owner = self.owner()
        known = {} if owner is None else owner.dx_local_values()
        own = {other: found for other, found in self.dx_variables().items() if other != name}
        for other in variable.of:
            if other in own:
                known[other] = self._current(other, own[other])
        return cast(object, variable.value(known))

    @cached_property
    def settings(self) -> ModuleSettings[I, O]:
        """What this module asks of a model, with every Variable replaced by its value."""
        variables = self.dx_variables()
        if self.owner() is None:
            self.check_names()
        values = self.dx_node.values
        value = {argument: self._value(argument, variables) for argument in self.arguments}
        scoring = value["scoring"] if self.closed is not None else "generate"
        return ModuleSettings(
            path=self.dx_node.path,
            input=self.input_schema,
            output=self.output_schema,
            instruction=self._filled(cast(str, value["instruction"]), variables),
            demos=cast(DemoSource, value["demos"]),
            demos_k=cast("int | None", value["demos_k"]),
            temperature=float(cast(float, value["temperature"])),
            max_tokens=cast(int, value["max_tokens"]),
            format=cast("Format | None", value["format"]) or "chat",
            scoring=cast(Scoring, scoring),
            reasoning=self.reasons,
            lm=self._model(value["lm"]),
            prior=cast("tuple[float, ...] | None", value["prior"]),
            answers=cast("Answers | None", value["answers"]) or "auto",
            repairs=1 if value["repairs"] is None else cast(int, value["repairs"]),
            input_values={
                name: values.get(f"input.{name}", variable.default) for name, variable in self.fields.items()
            },
        )

    def _model(self, chosen: object) -> LMLike | None:
        if chosen is not None:
            return self.models.get(chosen, chosen) if isinstance(chosen, str) else cast("LMLike", chosen)
        return self.inherited_lm()

    def inherited_lm(self) -> LMLike | None:
        """The model of the nearest program around this module that has one, else its class's own."""
        parent = self.dx_node.parent
        while parent is not None:
            if parent.lm is not None:
                return parent.lm
            parent = parent.dx_node.parent
        return self.lm

    def _known_names(self, variables: Mapping[str, Var[Any]]) -> dict[str, object]:
        """What placeholders may name: Variables given to this module, then those of the owning program."""
        owner = self.owner()
        known = dict(owner.dx_node.values) if owner is not None else {}
        for name in variables:
            if name not in self.arguments and "." not in name:
                known[name] = self._current(name, variables[name])
        return known

    def _filled(self, text: str, variables: Mapping[str, Var[Any]]) -> str:
        if "{" not in text:
            return text
        known = self._known_names(variables)

        def replacement(match: re.Match[str]) -> str:
            escaped, name = match.groups()
            if escaped is not None:
                return "{" + escaped + "}"
            # A text that a proposer wrote may hold any braces; the author's own texts were checked.
            if name not in known:
                return match.group()
            value = known[name]
            return str(cast(object, value.value) if isinstance(value, Enum) else value)

        return _PLACEHOLDER.sub(replacement, text)

    def check_names(self) -> None:
        """Raise DX1506 when an instruction that the author wrote names a Variable that does not exist.

        DX1405 when an argument is a Variable that is not the owning program's, and has the name of one that is.
        """
        self._check_given()
        variables = self.dx_variables()
        given = self._given("instruction")
        plain = self.arguments["instruction"]
        texts: Sequence[str] = (plain,) if isinstance(plain, str) else ()
        if given is not None:
            settled = given.settled() if isinstance(given, Declared) else given
            texts = cast("tuple[str, ...]", settled.options)
        self._check_placeholders(texts, variables)

    def check_instruction(self, texts: Mapping[str, str]) -> None:
        """Raise DX1506 when what `texts` gives this module's instruction names a Variable that does not exist.

        Args:
            texts: Texts of Variables, by full name. Those that proposers add to pools are not checked: a model may
                write any braces.
        """
        variables = self.dx_variables()
        given = self._given("instruction")
        local = "instruction" if given is None else self._argument_name(given)
        owner = self.owner()
        if local in variables:
            full = join(self.dx_node.path, local)
        elif given is not None and owner is not None:
            full = join(owner.dx_node.path, local)
        else:
            return
        if full in texts:
            self._check_placeholders((texts[full],), variables)

    def _check_placeholders(self, texts: Sequence[str], variables: Mapping[str, Var[Any]]) -> None:
        known = self._known_names(variables)
        for text in texts:
            for match in _PLACEHOLDER.finditer(text):
                name = match.group(2)
                if name is not None and name not in known:
                    raise unknown_placeholder(name, self.dx_node.path, known, place(self.at))

    def _check_given(self) -> None:
        owner = self.owner()
        if owner is None:
            return
        for given in self.arguments.values():
            if isinstance(given, Var):
                variable = cast("Var[Any]", given)
                name = self._argument_name(variable)
                if name in owner.dx_node.values and not _declares(type(owner), name, variable):
                    raise same_name(name, owner.dx_variables()[name], variable)

    # --- the call -------------------------------------------------------------------------------

    def __call__(self, x: I, /) -> CoroutineType[Any, Any, O]:
        """One call of the model under the current context.

        Raises:
            ProgramError: DX1514 when `x` is no instance of the input schema.
        """
        # No coroutine of its own, which every call that waits would hold.
        return ports.call_module(self, x)


def _first_with_init(cls: type) -> type:
    return next(base for base in cls.__mro__ if "__init__" in vars(base))


def unknown_placeholder(name: str, module: str, known: Iterable[str], where: str | None) -> ProgramError:
    """The error for an instruction of `module` that names `name`, which is none of the Variables `known`."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    remedy = f"write {{{near[0]}}}" if near else "declare the Variable"
    return ProgramError(
        "DX1506",
        f"the instruction of {module!r} names {{{name}}}, which is no Variable; "
        f"known are {', '.join(sorted(known)) or '(none)'}",
        where=where,
        fix=f"{remedy}, or write {{{{{name}}}}} for a literal {{{name}}}",
    )


def argument_problem(
    name: str, value: object, choices: int | None, output: str, *, reasons: bool
) -> tuple[str, str | None] | None:
    """Why the plain `value` does not fit the argument `name` of a module, and what would; None when it does.

    Args:
        name: The argument.
        value: Its value.
        choices: How many choices the output has when it is one closed choice; None otherwise.
        output: Name of the output schema.
        reasons: Whether the module reasons before it answers.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    sound = {
        "instruction": lambda: value is None or isinstance(value, str),
        "demos": lambda: value is None or is_demo_source(value),
        "demos_k": lambda: value is None or (whole and cast(int, value) >= 0),
        "temperature": lambda: (whole or isinstance(value, float)) and 0 <= cast(float, value) < float("inf"),
        "max_tokens": lambda: whole and cast(int, value) >= 1,
        "format": lambda: value is None or value in FORMATS,
        "scoring": lambda: value is None or value in SCORINGS,
        "lm": lambda: True,
        "prior": lambda: value is None or _fits_choices(value, choices),
        "answers": lambda: value is None or value in ANSWERS,
        "repairs": lambda: value is None or (whole and 0 <= cast(int, value) <= MOST_REPAIRS),
    }
    if not sound[name]():
        expected = {
            "instruction": "a text",
            "demos": "a DemoSet, Nearest or a sequence of dx.Demo",
            "demos_k": "a whole number >= 0",
            "temperature": "a finite number >= 0",
            "max_tokens": "a whole number >= 1",
            "format": "one of " + ", ".join(FORMATS),
            "scoring": "one of " + ", ".join(SCORINGS),
            "prior": "one finite number for each choice of the output",
            "answers": "one of " + ", ".join(ANSWERS),
            "repairs": f"a whole number from 0 to {MOST_REPAIRS}",
        }
        return f"{name} is {expected[name]}, got {value!r}", None
    if name == "scoring" and value not in (None, "generate") and choices is None:
        return (
            f"scoring={value!r} needs an output of one closed choice, and {output} is none"
            + (" before which the model reasons" if reasons else ""),
            "give the output one field of a Literal, Enum or bool type, or leave scoring out",
        )
    return None


def _fits_choices(value: object, choices: int | None) -> bool:
    numbers = cast("Sequence[object]", value)
    return len(numbers) == choices and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)


def _declares(owner: type, name: str, variable: Var[Any]) -> bool:
    """Whether a body of `owner` or of a base holds `variable`; one that was pickled counts by its place."""
    for cls in owner.__mro__:
        held: object = vars(cls).get(name)
        if held is variable or (isinstance(held, Var) and cast("Var[Any]", held).at == variable.at):
            return True
    return False


def _model_name(model: LMLike) -> str:
    if isinstance(model, str):
        return model
    name = getattr(model, "model", None)
    return name if isinstance(name, str) else cast(str, getattr(model, "name"))  # noqa: B009
