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
        "dx.compile wants an instance of a dx.Program, because modules and values belong to instances. Call the class "
        "first, dx.compile(QABot()), or write a program around the function.",
    ),
    "DX2080": Entry(
        "the text of a graph cannot be read",
        "The text is not in the canonical form that print(compiled.graph) writes. The message names line and "
        "column and "
        "what was expected there.",
    ),
    "DX2081": Entry(
        "a graph is not sound",
        "Every graph obeys a table of rules: values are defined before they are read, types of edges agree, names are "
        "unique. A text written by hand broke one of them; after a pass of dspex it is a defect of dspex, to be "
        "reported with the program.",
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
        "an integer Variable reaches beyond 2**53",
        "Candidates are columns of float64, which hold every integer only up to 2**53. Narrow the bounds, or "
        "use a Float with log=True when the scale is what matters.",
    ),
    "DX2108": Entry(
        "a rule is nested too deeply",
        "Rules run on a machine with a stack of 32 values, and this one needs more. Split it with several "
        "rules, or write sums so that they grow to the left: ((a + b) + c) + d.",
    ),
    "DX2109": Entry(
        "a rule of an unknown form",
        "Rules are built of comparisons, &, |, ~ and implies over Variables, numbers and + - *. Something "
        "else was found inside one. Write it with these parts.",
    ),
    "DX2110": Entry(
        "a category in an order comparison or in arithmetic",
        "Only numbers have an order and can be added; a Choice counts as numeric when all its values are "
        "numbers. Compare other categories with .is_() and .is_not().",
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
        "an artifact's program cannot be imported",
        "An artifact names its program by import path, and in this version the source is needed to run it: "
        "the module is "
        "not installed, fails on import, or holds something else under the name. Run where it can be imported, or pass "
        "the program: load_artifact(path, program=QABot).",
    ),
    "DX2206": Entry(
        "a program cannot be found again",
        "Before anything is written, the program is looked up under its import path and bound with its configuration; "
        "the result differs from the program to be saved. Its class has to stand at the top of an importable "
        "module and "
        "need no arguments, or an instance has to stand there under a name: save(path, import_path='bot:pipeline').",
    ),
    "DX2207": Entry(
        "an artifact was saved from another program",
        "Source, schemas or Variables of the program changed since the artifact was saved, so its prompts and values "
        "may no longer mean the same. Compile and save again, or install the version that it was saved with.",
    ),
    "DX2208": Entry(
        "a schema has no JSON Schema",
        "An artifact holds the JSON Schema of every schema in the graph, and a field's type has none. Use a type that "
        "JSON can hold, or give the type a JSON Schema with pydantic's means.",
    ),
}
