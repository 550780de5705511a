"""Codes DX5xxx: data sets, splits and metrics."""

from __future__ import annotations

from dspex.catalogue.entry import Entry

DATA: dict[str, Entry] = {
    "DX5101": Entry(
        "the data file cannot be read",
        "The file does not exist, may not be read, or has a suffix that is none of .jsonl, .ndjson, .csv, .tsv and "
        ".json. "
        "Paths are relative to the working directory.",
    ),
    "DX5102": Entry(
        "the data file is not what its suffix says",
        "A line is not JSON, a table has an unclosed quote, or the file is not UTF-8 text. The message names file "
        "and line.",
    ),
    "DX5103": Entry(
        "a row is not a JSON object",
        "Each line of a .jsonl file, and each member of the list in a .json file, is an object with a value for "
        "each field.",
    ),
    "DX5104": Entry(
        "a value does not fit its field",
        "The schema's type or bounds refuse the value. The message names file, line, field, value and rule: "
        "correct the "
        "row or the schema.",
    ),
    "DX5105": Entry(
        "a row has no value for a field",
        "The field has no default, and no column of its name is there. Give the column the field's name, or map it "
        "with "
        'columns={"field": "column"}.',
    ),
    "DX5106": Entry(
        "a table's row does not match its header",
        "The row has more or fewer cells than the header, or the header names a column twice. Cells that hold the "
        "delimiter "
        "or a line break must stand in double quotes.",
    ),
    "DX5108": Entry(
        "a label is not in the schema",
        "The field takes a closed set of values (Literal, Enum or choices) and the row has another one, often a "
        "misspelling "
        "or another case. Correct the row, or add the label to the schema.",
    ),
    "DX5109": Entry(
        "a column is in neither schema",
        "With strict=True every column must feed a field. Without it such columns are ignored and listed in the "
        "data set's "
        "notices.",
    ),
    "DX5110": Entry(
        "the data set holds no examples",
        "The file or list is empty. To try a program no data is needed; to optimize one, several dozen examples are.",
    ),
    "DX5111": Entry(
        "a row in memory is of no known form",
        "Rows are mappings by field name, pairs of an input and an output (instances of the schemas or mappings), or "
        "examples of another data set.",
    ),
    "DX5112": Entry(
        "columns= names an unknown field",
        "Its keys are fields of the input or the output schema, its values are columns of the data. input.NAME and "
        "output.NAME tell fields apart that both schemas have.",
    ),
    "DX5201": Entry(
        "too few examples to divide",
        "Train, validation and held-out parts share no input, so that at least five distinct inputs are needed; "
        "rows that "
        "repeat an input do not count. With fewer than 90 held out, most gains cannot be told from chance.",
    ),
    "DX5202": Entry(
        "the shares of a split are not sound",
        "fractions are three positive numbers that add up to 1, minimum three whole numbers of at least 0: for train, "
        "validation and held-out, in this order.",
    ),
    "DX5203": Entry(
        "the held-out part shares inputs with the data",
        "A held-out part of one's own must not contain inputs that the search sees, up to case and blanks; otherwise "
        "its score says nothing about new inputs. Remove the shared rows from one of the two.",
    ),
    "DX5301": Entry(
        "the metric gave no finite number",
        "A metric returns a number, True, False or a Score. None (often a path without return), NaN, infinity, "
        "text and "
        "other values are refused, because they cannot be compared.",
    ),
    "DX5321": Entry(
        "there is no score to take a mean of",
        "Every example failed or was excluded. The reasons stand with the outcomes: correct what failed first.",
    ),
    "DX5322": Entry(
        "paired scores are of the same examples",
        "A gain compares two configurations example by example, so both need one score for each example, in one order.",
    ),
    "DX5323": Entry(
        "unknown failure policy",
        "What an example without a score counts as is worst (the worst score), exclude (nothing) or stop (an error).",
    ),
    "DX5324": Entry(
        "an example failed and the policy is stop",
        "With the policy stop, one failed example ends the evaluation. The reasons stand with the outcomes.",
    ),
    "DX5401": Entry(
        "the metric raised",
        "The metric's own code failed on an example; the message has the error and the line. That example has no "
        "score: "
        "it is a failure with its reason, never a zero.",
    ),
    "DX5403": Entry(
        "the program raised",
        "The program's own Python code failed on an example; the message has the error and the line. That example "
        "has no "
        "score: it is a failure with its reason, never a zero.",
    ),
}
