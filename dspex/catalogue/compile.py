"""Codes DX2xxx: the compiler."""

from __future__ import annotations

from dspex.catalogue.entry import Entry

COMPILE: dict[str, Entry] = {
    "DX2001": Entry(
        "schemas do not fit",
        "A program is given, or gives, a value of another schema than the one that it declares: across `>>`, in a call "
        "of a module, or in `return`. Nothing converts schemas silently. Construct the schema that is wanted from the "
        "value, put a program between the two, or change one of the schemas.",
    ),
    "DX2002": Entry(
        "a schema has no such field",
        "The body reads a field that the schema of the value does not have; at run time this would be an "
        "AttributeError, after the calls before it were paid for. Correct the name, or add the field to the schema.",
    ),
    "DX2003": Entry(
        "branches of a selection differ in type",
        "Any branch of dx.select may run, so all of them take the same schema and give the same schema. Wrap "
        "the branch "
        "that differs in a program that converts.",
    ),
    "DX2004": Entry(
        "a schema is constructed with wrong fields",
        "The body constructs or copies a schema with a field that it does not have, without a required one, or with "
        "positional values. Correct the names, give what is missing, or give the field a default in the schema.",
    ),
    "DX2005": Entry(
        "a module is constructed inside the body",
        "A module that is made anew in every call has no Variables that could be optimized, and its prompt would be "
        "prepared again each time. Make it an attribute of the class, or set it in __init__; choose between several "
        "with dx.select.",
    ),
    "DX2006": Entry(
        "a program calls itself",
        "Following the calls in the bodies leads back to a program that is still being read, so its graph "
        "would have no "
        "end. The message shows the way around. Write a fixed number of steps out, or decide on repetition in "
        "plain code outside the program.",
    ),
    "DX2007": Entry(
        "a program has no such attribute",
        "The body reads an attribute, or an item of a list or dict of programs, that the instance does not "
        "have. Define "
        "it in the class, set it in __init__, or correct the name.",
    ),
    "DX2008": Entry(
        "compile takes a program",
        "dx.compile and dx.evaluate want an instance of a dx.Program, because modules and values belong to instances. "
        "Call the class first, dx.compile(QABot()), or write a program around the function.",
    ),
    "DX2009": Entry(
        "a Variable is given to two modules that nothing holds together",
        "One Variable object is an argument of two modules, and no program around them declares it. Names are relative "
        "to programs, so it would become two Variables that an optimizer sets apart. Declare it in the class of the "
        "program that holds both modules, or write a second Variable.",
    ),
    "DX2010": Entry(
        "programs are nested too deeply",
        "Programs stand inside programs more levels deep than the compiler follows; a chain of steps does not need "
        "levels. Write `a >> b >> c`, or call several programs in one body.",
    ),
    "DX2011": Entry(
        "a call is returned without `await`",
        "The body returns what a call of a module, a program or an asynchronous function gives before it is awaited, "
        "so every run would end with an object that is not the output. Write `return await self.answer(x)`.",
    ),
    "DX2012": Entry(
        "a body ends without an output",
        "Every run of the body reaches its end, or a `return` without a value, so it gives None. End it with `return` "
        "and an instance of the output schema.",
    ),
    "DX2013": Entry(
        "a call of the program cannot be awaited",
        "A program is awaited when it is called. Its `__call__` is a `def` that returns a value, or it yields, so "
        "that every run would be a TypeError. Write `async def`, await the calls in it, and return the output once.",
    ),
    "DX2014": Entry(
        "a value is awaited",
        "The body awaits something that is no call of a module, a program or an asynchronous function: a schema, a "
        "text, what a plain function returns, what `.run(...)` already waited for. Every run would be a TypeError. "
        "Drop the `await`, or call the program itself.",
    ),
    "DX2080": Entry(
        "the text of a graph cannot be read",
        "The text is not in the canonical form that print(compiled.graph) writes. The message names line and "
        "column and what was expected there.",
    ),
    "DX2081": Entry(
        "a graph is not sound",
        "Every graph obeys a table of rules: values are defined before they are read, types of edges agree, names are "
        "unique. A text written by hand broke one of them; after a pass of dspex it is a defect of dspex, to be "
        "reported with the program.",
    ),
    "DX2082": Entry(
        "a selection is frozen to no branch of it",
        "A frozen Variable of a selection names the branch that runs, and the value is none of the names. Freeze it to "
        "one of the branches that the message lists.",
    ),
    "DX2083": Entry(
        "a map goes over a single value",
        "The value that a map goes over is a number, a truth value or None by its type, which at run time would be a "
        "TypeError, after the calls before it were paid for. Map over a list, or call the program once.",
    ),
    "DX2101": Entry(
        "a rule mentions an unknown Variable",
        "Rules and when= conditions refer to Variables by name, and every name must be a Variable of the same "
        "space. A program's Variables are listed by `dspex compile`. Correct the name, or add the Variable.",
    ),
    "DX2102": Entry(
        "two Variables have one name",
        "Names identify Variables in configurations, rules and artifacts, so each may stand once in a space. "
        "Rename one of them, or use one Variable object in both places.",
    ),
    "DX2103": Entry(
        "conditions form a cycle",
        "A Variable with when= is active only if others have certain values, so these must be decided first. "
        "The message prints the cycle. Drop one of its conditions.",
    ),
    "DX2104": Entry(
        "a rule can never hold",
        "Interval analysis shows that a comparison is false for every value inside the domains. The "
        "conclusion of an implication counts too: if it is impossible, the rule only forbids its premise, "
        "which is hardly meant. Widen the bounds, drop the rule, or forbid the premise directly.",
    ),
    "DX2105": Entry(
        "rules cannot hold together",
        "No configuration obeys all rules: shown by searching the whole space when it is small, else by the "
        "sampler finding nothing. The message names a smaller set of rules that already conflict where it "
        "could be found. Drop one of them or widen the domains.",
    ),
    "DX2106": Entry(
        "the default configuration breaks a rule",
        "The default configuration is the program as written and the first candidate of every search, so it "
        "must obey the rules. Change a default, or the rule.",
    ),
    "DX2107": Entry(
        "bounds of a Variable beyond what candidates can hold",
        "Candidates are columns of float64, which hold every integer only up to 2**53; bounds of a Float lie in "
        "±1e300, and at least 1e-304 from zero on a logarithmic scale. Narrow the bounds, or use a Float with log=True "
        "when the scale is what matters.",
    ),
    "DX2108": Entry(
        "a rule is nested too deeply, or too large",
        "Rules run on a machine with a stack of 32 values, and this one needs more, or it is nested more than 300 "
        "deep or larger than 20,000 parts once computed Variables are written out. Split it into several rules, write "
        "sums so that they grow to the left, ((a + b) + c) + d, and add long ones in groups.",
    ),
    "DX2109": Entry(
        "a rule of an unknown form",
        "Rules are built of comparisons, &, |, ~ and implies over Variables, numbers and + - *. Something "
        "else was found inside one. Write it with these parts.",
    ),
    "DX2110": Entry(
        "a category in an order comparison or in arithmetic",
        "Only numbers have an order and can be added; a Choice counts as numeric when all its values are "
        "numbers. Compare other categories with .is_() and .is_not(), and a number with a number.",
    ),
    "DX2111": Entry(
        "a configuration names an unknown Variable",
        "A configuration maps names of this space to values. The name is misspelt, or the configuration "
        "belongs to another program or version. See `space.variables` for the names.",
    ),
    "DX2112": Entry(
        "a Variable has an empty domain",
        "A Variable needs at least one value to take. Give the pool or the choice a member.",
    ),
    "DX2113": Entry(
        "a value is not one of a Variable's options",
        "The value passed the Variable's own check but is not among its options. A pool member was probably "
        "changed after it was added; add the new member to the pool instead.",
    ),
    "DX2114": Entry(
        "a rule always holds",
        "A warning: every value inside the domains obeys the rule, so it forbids nothing and has no code. Usually a "
        "bound was mistyped, or the domain was narrowed later. Drop the rule or tighten it.",
    ),
    "DX2115": Entry(
        "a rule computes with a number that is not finite",
        "No comparison with NaN is ever true, and arithmetic with infinity gives NaN. Write a finite number; a "
        "comparison with infinity alone may simply be left out.",
    ),
    "DX2116": Entry(
        "a Variable is never active",
        "A warning: the Variable's when= condition is false for every value inside the domains, so nothing ever sets "
        "or reads it. Correct the condition, or drop the Variable.",
    ),
    "DX2117": Entry(
        "computed Variables and conditions form a cycle",
        "A computed Variable needs the values that it is computed from, and a conditional one those in its condition. "
        "The message prints the cycle. Compute one of them from other Variables, or drop its condition.",
    ),
    "DX2118": Entry(
        "a rule mentions a Variable that a function computes",
        "Rules are checked in the core over thousands of candidates at a time, where no Python function can be "
        "called. Arithmetic is written out instead: dx.computed(k * 100) may stand in rules and conditions. Otherwise "
        "state the rule over the Variables that the function reads.",
    ),
    "DX2201": Entry(
        "an artifact cannot be read",
        "The file is missing or may not be opened. Check the path and its permissions.",
    ),
    "DX2202": Entry(
        "an artifact cannot be written",
        "The directory is missing, may not be written, or has no room. The file is replaced at once or not at all, so "
        "an earlier artifact under the name is still whole.",
    ),
    "DX2203": Entry(
        "a file is not a sound artifact",
        "Every byte of an artifact is covered by a hash, sizes are limited and names of members are plain relative "
        "paths. The file is truncated, was changed, or is something else. Copy it again from its source or save it "
        "again; to change a prompt, bind it and save.",
    ),
    "DX2204": Entry(
        "an artifact has a newer format",
        "A newer dspex wrote the file. Install that version; older formats are always read.",
    ),
    "DX2205": Entry(
        "an artifact needs code that is not here",
        "An artifact without code loads anywhere. One with functions, tools, opaque programs or validators names them, "
        "and takes them from its program; loading imports nothing by itself. Allow its module: "
        "load_artifact(path, imports=['bot']) or `dspex run FILE --import bot`, or pass the program: "
        "load_artifact(path, program=QABot). The message also says when the module was allowed and is not installed, "
        "fails on import, or holds something else under the name.",
    ),
    "DX2206": Entry(
        "a program cannot be found again",
        "An artifact that needs its program's code names it by import path. Before anything is written the program is "
        "looked up there and bound with its configuration, and the result differs from the program to be saved. Its "
        "class has to stand at the top of an importable module and need no arguments, or an instance has to stand "
        "there under a name: save(path, import_path='bot:pipeline'). `dspex compile bot:pipeline -o FILE` gives that "
        "name by itself. What dx.when, dx.fallback and the like make has no class of its own and is found by name "
        "only.",
    ),
    "DX2207": Entry(
        "an artifact was saved from another program",
        "Another program was given, or source, schemas or Variables of the program changed since the artifact was "
        "saved, so its prompts and values may no longer mean the same. Compile and save again, or install the version "
        "that it was saved with.",
    ),
    "DX2208": Entry(
        "a schema has no JSON Schema",
        "An artifact holds the JSON Schema of every schema in the graph, and a field's type has none. Use a type that "
        "JSON can hold, or give the type a JSON Schema with pydantic's means.",
    ),
    "DX2209": Entry(
        "an artifact is not signed",
        "A key was given, so only an artifact with a signature of that key is accepted, and this one has none. Sign it "
        "with `dspex sign FILE --key KEY.pem`, or leave the key out when you trust where the file is from.",
    ),
    "DX2210": Entry(
        "a schema of an artifact cannot be rebuilt",
        "Schemas are stored as JSON Schema and rebuilt without running anything. The document has a keyword, a number "
        "or a name that dspex does not write, so it was changed, or a newer dspex wrote it. Compile and save again.",
    ),
    "DX2211": Entry(
        "the signature of an artifact is not right",
        "The artifact was changed after it was signed, or another key signed it. The message names both keys by their "
        "fingerprints. Get the file again from who signed it; do not load it without the key instead.",
    ),
    "DX2212": Entry(
        "a key cannot be used",
        "Keys are Ed25519 keys in PEM form without a password: the private one signs, the public one verifies. "
        "`dspex keygen NAME` writes both, and so does openssl: `openssl genpkey -algorithm ed25519`. A key file that "
        "exists is never overwritten.",
    ),
    "DX2213": Entry(
        "signing needs the package cryptography",
        "Signatures are made and verified by the package cryptography, which is not installed here. "
        'Install it with pip install "dspex[sign]".',
    ),
    "DX2214": Entry(
        "an unpacked artifact was edited in another place than its instructions",
        "In the folder that `dspex unpack` makes, only the text between the fences under `## Instruction` in "
        "prompts/*.md can be edited; `dspex pack` adds it to its Variable and binds it. Everything else follows from "
        "the program and its values: bind values with `dspex compile --config`, and unpack again.",
    ),
    "DX2215": Entry(
        "a model is given that no module of an artifact calls",
        "models= maps names of models to models, and only names that the artifact lists have a meaning there. The name "
        "is misspelt, or the artifact's modules leave the model to the context: give it with dx.using(lm=…).",
    ),
    "DX2216": Entry(
        "the parts of an artifact do not fit each other",
        "Graph, Variables, schemas and configuration of an artifact are compared when it is loaded. They differ, so "
        "the file was put together by hand or changed. Compile and save it again.",
    ),
    "DX2217": Entry(
        "a folder is no unpacked artifact, or cannot be one",
        "`dspex unpack` writes into a folder that is new or empty, and `dspex pack` reads such a folder. The message "
        "says what is wrong with this one.",
    ),
    "DX2218": Entry(
        "the provenance of an artifact is not JSON",
        "Provenance is stored in the manifest, so it holds texts, finite numbers, lists and records of them. Write "
        "dates and paths as texts.",
    ),
    "DX2219": Entry(
        "a fixed instruction was edited",
        "The instruction of this module is no Variable of its program, so an artifact cannot carry another one. Change "
        "it in the source, or make it a Variable there, compile and save.",
    ),
    "DX2301": Entry(
        "the program itself is not here",
        "An artifact that needs no source runs from its graph alone, and so there is no program object behind it. "
        "Something asked for it: `compiled.program`, a part that runs as plain Python, or an attribute of the program. "
        "Load the artifact with program=…, or compile the program where its source is.",
    ),
    "DX2302": Entry(
        "a schema of the graph is not known",
        "A graph names its schemas; the classes come from the program, or from the JSON Schemas of an artifact. One of "
        "them is missing, so nothing can be validated against it. Compile the program again, or load the artifact that "
        "the graph came with.",
    ),
    "DX2303": Entry(
        "code that the graph calls is not here",
        "Plain functions, expressions and tools are named by import path in a graph, and are never part of it. Load "
        "the artifact where its code can be imported, with program=… or imports=[…], or compile the program again.",
    ),
    "DX2304": Entry(
        "a part that the graph calls is not in the program",
        "A graph names programs that run as plain Python by their dotted path. The program that came with it has no "
        "part of that path: it is another one, or it was built differently. Compile it again.",
    ),
    "DX2305": Entry(
        "a part reads a Variable of the program around it",
        "A program that belongs to a larger one can be compiled by itself: what it reads of the programs around it is "
        "then fixed at its present value. This value is no text, number, truth value or None, so it cannot be written "
        "into a graph. Compile the program around it, or give the part a Variable of its own.",
    ),
    "DX2401": Entry(
        "examples of an estimate do not fit",
        "estimate([x], expected=...) takes a list of instances of the program's input schema, and for each of them "
        "one output of the program, or by path of its modules. Another type, another number, or an unknown path was "
        "given.",
    ),
    "DX2402": Entry(
        "a prompt is larger than every context window",
        "What the prompt holds before any input, instruction and demonstrations, is more than the largest context "
        "window of the models that the module may call, so that every call would be refused. Tokens are estimated, "
        "with the error of the estimate on the safe side. Shorten the instruction, show fewer demonstrations "
        "(demos_k), or name a model with a larger window.",
    ),
    "DX2403": Entry(
        "a prompt is close to the context window",
        "Instruction and demonstrations, with the answer's max_tokens, take most of the window of the largest model "
        "that the module may call; inputs have to fit into the rest. Show fewer demonstrations, lower max_tokens, or "
        "name a model with a larger window.",
    ),
    "DX2404": Entry(
        "a program runs as plain Python",
        "Its body holds something that the compiler does not read, so the program runs as it is written: its Variables "
        "and modules are optimized all the same, but its calls are not scheduled together, merged or estimated. The "
        "message says what it is and how to write it instead.",
    ),
    "DX2405": Entry(
        "a field that never changes comes after one that does",
        "A provider's prompt cache serves a prompt up to the first thing that differs from the call before. A field "
        "that is the same at every call stands after one that changes and is paid for again each time. Declare it "
        "first in the schema.",
    ),
    "DX2406": Entry(
        "there are no demonstrations to choose from",
        "A number of demonstrations is a Variable, and the pool that it counts in holds none, so it changes nothing. "
        "Give the module demos=, or optimize: a study's proposers add demonstrations to the pool.",
    ),
    "DX2407": Entry(
        "nothing reads a Variable",
        "No module, instruction, body, rule or condition depends on it, so an optimizer would search it in vain. Use "
        "it, for example as {name} in an instruction, or remove it.",
    ),
    "DX2408": Entry(
        "nothing calls a module",
        "The module is an attribute of the program, and no call of it is needed for the program's output: it is never "
        "called, or what it gives is not used, so that its calls are left out. An optimizer would search its Variables "
        "in vain. Call it, or remove it.",
    ),
    "DX2409": Entry(
        "a file calls a model while it is imported",
        "dspex check imports a file to find its programs, and makes no call. This file calls a model at its top level, "
        'where every import would pay for it. Put what is to run under `if __name__ == "__main__":`.',
    ),
    "DX2410": Entry(
        "a file cannot be checked",
        "dspex check reads a Python file before it imports it, and this one cannot be opened or is not Python. Correct "
        "the line that the message names.",
    ),
    "DX2411": Entry(
        "a program is not checked",
        "dspex check makes an instance of every class of a program that needs no arguments, and looks at the instances "
        "that stand at the top of a module. This class needs arguments: make an instance at the top of a module.",
    ),
}
