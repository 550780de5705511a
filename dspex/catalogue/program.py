"""Codes DX1xxx: what a user wrote."""

from __future__ import annotations

from dspex.catalogue.entry import Entry

PROGRAM: dict[str, Entry] = {
    "DX1101": Entry(
        "a field with variable=True has no domain",
        "An optimizer can set an input field only when it knows the values to try and what holds without it. "
        "Give the field a default and a closed type (Literal, Enum, bool, choices=) or a number with ge= and "
        "le=.",
    ),
    "DX1102": Entry(
        "choices of a field are empty or miss the default",
        "choices= lists every value that a field may have, so the default is one of them. Add the default to "
        "choices, or change it.",
    ),
    "DX1201": Entry(
        "a number needs both bounds",
        "An optimizer samples numbers between lo and hi, so dx.var of an int or float states both. Write "
        "dx.var(4, lo=1, hi=8).",
    ),
    "DX1202": Entry(
        "annotation and default of a Variable disagree",
        "The annotation dx.Var[T] decides the kind of a Variable, and its default must be a value of that "
        "kind. Change one of them, or drop the annotation and let the default decide.",
    ),
    "DX1203": Entry(
        "an annotation of a Variable cannot be resolved",
        "The annotation names something that does not exist when the program is first used, for example a "
        "name imported under TYPE_CHECKING alone. Import it at run time, or use the explicit form, which "
        'needs no annotation: dx.Choice("style", ("terse", "detailed")).',
    ),
    "DX1204": Entry(
        "a default is outside its domain",
        "A Variable's default is its value until something is bound, so it must be inside the bounds, on the "
        "step grid, or one of the choices. Change the default or widen the domain.",
    ),
    "DX1205": Entry(
        "a Variable stands under two names",
        "Rules, configurations and reports speak of a Variable by its name, so the attribute and the name "
        "given to dx.Float and the other named forms are the same. Rename one, or declare a second Variable.",
    ),
    "DX1206": Entry(
        "a name is taken by dx.Program",
        "A Variable or module with the name of a method of dx.Program would hide it. Give it another name.",
    ),
    "DX1207": Entry(
        "bounds, scale or step of a number make no sense",
        "lo and hi are finite with lo <= hi, a logarithmic scale needs lo above 0, step is above 0 and not "
        "combined with log. The message shows the values found.",
    ),
    "DX1208": Entry(
        "a pool, choice or selection is empty or repeats a member",
        "A categorical Variable has at least one member and each member once: candidates are numbered by "
        "member, and equal members would be two candidates. Remove the repetition.",
    ),
    "DX1209": Entry(
        "weights do not fit the values",
        "weights= gives every value of a choice one finite number above 0. Leave a value out of the choice "
        "rather than giving it weight 0.",
    ),
    "DX1210": Entry(
        "an option does not fit the kind of Variable",
        "lo, hi, log and step belong to numbers; choices and weights to choices. Drop the option, or change "
        "the annotation or default that decided the kind.",
    ),
    "DX1211": Entry(
        "a subclass replaces a Variable by a plain value",
        "Rules and module arguments name the Variable, and would name nothing. Bind the value on an instance,"
        " or override the Variable with a dx.var whose domain is that one value.",
    ),
    "DX1212": Entry(
        "a Variable's annotation is not dx.Var[...]",
        "The class attribute is a Variable and the instance attribute a plain value; the annotation "
        "dx.Var[int] says both to a type checker. Write k: dx.Var[int] = dx.var(4, lo=1, hi=8).",
    ),
    "DX1213": Entry(
        "a Variable has no name",
        "dx.var takes its name from the class attribute that it is assigned to. Outside a class body use a "
        'named form: dx.Float("temperature", 0.0, 1.0).',
    ),
    "DX1214": Entry(
        "a Variable is assigned in __init__",
        "Variables are part of a class: every instance has the same ones, and a type checker knows them. Declare it in "
        "the class body, or hand a named form to the module that uses it, as in dx.Predict(..., "
        "temperature=dx.Float(...)).",
    ),
    "DX1216": Entry(
        "computed Variables depend on each other in a cycle",
        "A computed Variable is evaluated after those that it is computed from, so they form no cycle. The message "
        "prints the cycle; compute one of them from other Variables. A condition (when=) counts as a dependency too.",
    ),
    "DX1217": Entry(
        "two programs share one Variable",
        "A Variable belongs to one program: what two programs each own would be two Variables with two values under "
        "one definition. The message names both places. Declare one in each, or declare it in the program that holds "
        "both and hand it to their modules.",
    ),
    "DX1218": Entry(
        "the function of a computed Variable raised",
        "It is called with the values of its Variables whenever a program is made or bound, and has a result for "
        "every combination of them. The message shows the values.",
    ),
    "DX1219": Entry(
        "a computed Variable is not defined soundly",
        "dx.computed takes arithmetic over Variables, as in dx.computed(k * 100), or a function followed by the "
        "Variables whose values it gets, as in dx.computed(title, style, k).",
    ),
    "DX1301": Entry(
        "a rule was used as a truth value",
        "A rule is known to hold only once a configuration is. Python turns 1 <= k <= 4 into `(1 <= k) and (k"
        " <= 4)`, and `and`, `or`, `not`, `if` ask for a truth value. Write (1 <= k) & (k <= 4), and use & | "
        "~.",
    ),
    "DX1302": Entry(
        "something that is no rule stands for a rule",
        "rules= and when= take comparisons of Variables. k == 4 compares the Variable object and gives False;"
        " write k.is_(4).",
    ),
    "DX1303": Entry(
        "a rule or condition mentions an unknown Variable",
        "Rules resolve by name against the program that owns them. Declare the Variable there, or correct the name.",
    ),
    "DX1304": Entry(
        "one_of() without rules",
        "one_of(a, b, …) holds when exactly one of its rules does, so it needs at least one.",
    ),
    "DX1305": Entry(
        "an order or arithmetic over categories",
        "Only numbers can be compared with <= and computed with. Compare categories with .is_() and .is_not().",
    ),
    "DX1306": Entry(
        "conditions depend on each other in a cycle",
        "Whether a Variable is active is decided after those that its when= mentions, so conditions form no "
        "cycle. The message prints the cycle; drop one condition of it.",
    ),
    "DX1401": Entry(
        "an unknown Variable was bound",
        'bind() takes full names: k, solver, or with dots in a mapping, {"answer.instruction": …}. '
        "program.variables() lists them all.",
    ),
    "DX1402": Entry(
        "a value is outside a Variable's domain",
        "Every value is checked when it is bound: numbers against bounds and step, categories against their "
        "members. Bind a value inside the domain, or widen it.",
    ),
    "DX1403": Entry(
        "a configuration breaks a rule",
        "The rule is false for the values shown; all Variables that it mentions are active. Bind values that "
        "satisfy it together in one bind(), or drop the rule.",
    ),
    "DX1404": Entry(
        "a Variable without a pool was given members",
        "Only Text and Demos have pools that grow. The domain of any other kind is fixed where it is defined.",
    ),
    "DX1405": Entry(
        "two Variables have one name",
        "A configuration maps names to values, so names in one space are unique. Rename one of the two, or "
        "the attribute that holds its program.",
    ),
    "DX1406": Entry(
        "a computed Variable was set",
        "Its value follows from other Variables. Bind those. A full configuration may hold it, with the very value "
        "that follows; leave it out when you change what it is computed from.",
    ),
    "DX1407": Entry(
        "a stored Variable or rule has another shape",
        "The data is not what to_document() of a Variable or rules.to_json() writes. It may come from a newer version "
        "or a damaged or edited file.",
    ),
    "DX1408": Entry(
        "a Variable or rule cannot be stored",
        "Stored Variables hold texts, finite numbers, bools and None, and arithmetic. Members of an Enum, other "
        "objects, and functions that compute a Variable live in the source only: an artifact of such a program needs "
        "it.",
    ),
    "DX1501": Entry(
        "a program was changed after __init__",
        "Programs are immutable, so that a compiled plan, a study and a trace speak of one thing. bind() "
        "gives a copy with other values, with_lm() one with another model.",
    ),
    "DX1502": Entry(
        "a program does not say its schemas",
        "Input and output are dx.Schema classes, named in the bases: class QABot(dx.Program[Ask, Answer]). "
        "Modules take them as their first two arguments; a text such as 'question -> answer' is none.",
    ),
    "DX1503": Entry(
        "dx.infer() was called",
        "dx.infer() is the body of a function under @dx.program and never runs there. Put the decorator over "
        "the function, and call what it gives.",
    ),
    "DX1504": Entry(
        "the signature under @dx.program is not schema to schema",
        "The function has one parameter and a result, both annotated with dx.Schema classes that exist at run"
        " time: async def answer(x: Ask) -> Answer. Put several parameters into one schema.",
    ),
    "DX1505": Entry(
        "the body under @dx.program is not dx.infer()",
        "The body of such a function never runs: the language model infers the result. Make it dx.infer(), or"
        " write a class with __call__ for a program with code of its own.",
    ),
    "DX1506": Entry(
        "an instruction names an unknown Variable",
        "{name} in an instruction stands for the value of a Variable of the program that owns the module. "
        "Declare the Variable, correct the name, or write {{name}} for the literal text. Texts that are bound are "
        "checked like those in the source; those that a study proposes may hold any braces.",
    ),
    "DX1507": Entry(
        "branches of a selection do not fit together",
        "dx.select chooses between programs with the same input and output schemas, each under a name of its "
        "own. Name branches by keyword when their classes are the same.",
    ),
    "DX1508": Entry(
        "something that is no program stands beside >>",
        "a >> b joins programs. Wrap other code in a class with async def __call__.",
    ),
    "DX1509": Entry(
        "an argument of a module does not fit",
        "The message says what the argument takes. logprob and calibrated scoring compare a closed set of answers, so "
        "the output has one field of a Literal, Enum or bool type and no reasoning before it. An argument that "
        "modules do not have is refused with the nearest one that they have.",
    ),
    "DX1510": Entry(
        "the list of models of a module is empty or repeats a name",
        "With several models the module's lm is a Variable over their names, so there is at least one and "
        "each name stands once.",
    ),
    "DX1511": Entry(
        "a program is held under a key that cannot be in a path",
        "Programs in dicts get the key as a part of their dotted path. Use keys without dots.",
    ),
    "DX1514": Entry(
        "a module was called with another schema",
        "A module takes instances of its input schema. Build one, or put a program between that does.",
    ),
    "DX1520": Entry(
        "a metric judges another schema",
        "The annotations of the metric name a schema that the program neither takes nor gives. Annotate it "
        "with the program's schemas; the method form program.optimize(...) lets a type checker find this.",
    ),
    "DX1521": Entry(
        "something that is no metric stands for a metric",
        "A metric is a function of (got, want), or one of (run) under @dx.metric; sync or async. It returns a"
        " number, a bool or a dx.Score.",
    ),
    "DX1530": Entry(
        "fields and branches of dx.parallel do not fit together",
        "The schema of the result has one field for every branch, named like it and of the type of its output; other "
        "fields have defaults. Rename a branch, or change the schema.",
    ),
    "DX1531": Entry(
        "the branches of a combinator do not fit together",
        "parallel, fallback, race, vote and when take programs with one input schema and, but for parallel, one "
        "output schema. Branches have different names; positional ones are branch1, branch2 and so on. They are "
        "instances, and fallback, race and vote take two or more.",
    ),
    "DX1532": Entry(
        "dx.vote by a field that the output lacks",
        "by= names the output field whose commonest value wins. Leave it out to compare whole outputs.",
    ),
    "DX1533": Entry(
        "the test of dx.when is no plain function",
        "It is called with the input and its truth value decides at once, so it is not asynchronous and no program. "
        "To decide by a program's output, await it in a __call__ and use dx.cond.",
    ),
    "DX1534": Entry(
        "dx.cond or dx.map got something that it cannot run",
        "dx.cond(test, then, otherwise, x) and dx.map(program, xs) run programs; xs is a list of inputs. Conditions "
        "do not nest: write `a if test else b` with awaits, or make the inner one a program with dx.when.",
    ),
    "DX1535": Entry(
        "programs are nested too deeply",
        "A program may stand 100 levels below the outermost one. Combinators take any number of branches, and >> joins "
        "any number of steps, side by side.",
    ),
    "DX1536": Entry(
        "a program makes itself",
        "Its __init__ makes another instance of its class, which does the same, without end. A tree of programs is "
        "finite: pass the inner program in, or repeat the work in __call__.",
    ),
    "DX1540": Entry(
        "@dx.op stands over something that is no function",
        "It marks a def or an async def, whose source the compiler can name. Decorate the function itself, before "
        "other decorators wrap it.",
    ),
    "DX1541": Entry(
        "a function cannot be a tool",
        "A tool is a plain function, not a method. Its parameters can be given by name, and are annotated with types "
        "that have a JSON Schema; its name has letters, digits, _ and -, at most 64.",
    ),
    "DX1542": Entry(
        "a tool was called with arguments that do not fit",
        "Arguments are validated against the annotations before the function runs. The message names each argument "
        "that is missing, unknown or given twice, and else the rule and the value.",
    ),
    "DX1543": Entry(
        "a program gave something else than its output schema",
        "What __call__ returns is checked where it leaves dspex: in run, batch and the evaluation of an example. A "
        "call of a module or a program is awaited (return await self.answer(x)), every way through __call__ ends with "
        "return, and what is returned is an instance of the schema that the class declares.",
    ),
    "DX1544": Entry(
        "a program without __call__",
        "A program is a class that says in async def __call__ how its output comes about. Write it, or make instances "
        "of a class below that does.",
    ),
    "DX1601": Entry(
        "a demonstration is not JSON data",
        "A dx.Demo holds field values of an input and an output as JSON values, or instances of the schemas. "
        "Non-finite numbers and arbitrary objects are refused.",
    ),
    "DX1602": Entry(
        "Nearest without demonstrations to take",
        "Nearest(pool, k) shows k >= 1 demonstrations for each input. Use an empty DemoSet for none.",
    ),
    "DX1603": Entry(
        "a stored demonstration source has another shape",
        "The data is not what to_json() of a DemoSet or Nearest writes. It may come from a newer version or "
        "an edited file.",
    ),
    "DX1701": Entry(
        "code of yours raised",
        "A module, a program's __init__ or its __call__ ended in an exception that is not dspex's. Its traceback is "
        "printed before this message, from the first line of your own files on. Correct it there.",
    ),
}
