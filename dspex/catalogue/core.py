"""Codes DX3xxx: the core."""

from __future__ import annotations

from dspex.catalogue.entry import Entry

CORE: dict[str, Entry] = {
    "DX3001": Entry(
        "not a parameter table, or a damaged one",
        "The blob does not begin as a table, is cut off, or its checksum does not match. Copy the artifact "
        "again, or compile the program anew.",
    ),
    "DX3002": Entry(
        "an array of a parameter table has the wrong type or size",
        "Kernels run without checks, so types, sizes and alignment are fixed by the core's interface. The "
        "table was not built by dspex or by another version. Compile the program anew.",
    ),
    "DX3003": Entry(
        "a row of a parameter table is not sound",
        "Kind, bounds, step and category count of a row contradict each other. The message names the row and "
        "its values. Build tables by lowering a space.",
    ),
    "DX3004": Entry(
        "categories of a parameter table are out of range",
        "A row's categories must lie inside the table and its prior weights sum to one. Build tables by "
        "lowering a space.",
    ),
    "DX3005": Entry(
        "the condition tree of a parameter table is not sound",
        "A row's parent must be an earlier categorical row, and the category that activates it must exist. "
        "Build tables by lowering a space.",
    ),
    "DX3006": Entry(
        "the rule code of a parameter table is not sound",
        "Every instruction must be known, have its argument in range and find its values on the stack; "
        "programs end with END. The message names the instruction. Build tables by lowering a space.",
    ),
    "DX3007": Entry(
        "an array is not a population of the table",
        "A population is a C-contiguous float64 array with one row for each Variable and one column for each "
        "candidate; categories are whole numbers inside their range, inactive rows NaN.",
    ),
    "DX3008": Entry(
        "values for statistics are empty, not finite or do not match",
        "Means, intervals and tests need finite numbers, at least one, and the same count on both sides of a "
        "pair. Decide what failed examples count as before calling.",
    ),
    "DX3009": Entry(
        "confidence or resamples out of range",
        "A confidence level lies strictly between 0 and 1, and an interval needs at least 100 resamples.",
    ),
    "DX3010": Entry(
        "no candidate obeys the rules",
        "Repair and a bounded search found nothing that obeys every rule; the message names the rules that "
        "the best candidate still breaks. An equation between continuous Variables cannot be met by sampling: "
        "compute one of them from the others instead. Otherwise widen bounds or drop a rule.",
    ),
    "DX3011": Entry(
        "an unknown optimizer, or settings that it does not take",
        "See dspex.optimizers.names() for the optimizers. Each objective is one of maximize and minimize; budget "
        "is a positive number of trials; evaluation_seconds, which auto alone takes, is a time of at least 0.",
    ),
    "DX3012": Entry(
        "an optimizer's state does not fit",
        "State belongs to one optimizer and one space. Text and Demos pools may have grown since; nothing "
        "else may have changed, and the state must be whole. Start a new search if the space really changed.",
    ),
    "DX3013": Entry(
        "a candidate that was never asked",
        "Values are told for candidates that ask() returned, by the candidate or its id. Use enqueue() to "
        "have a configuration of your own asked.",
    ),
    "DX3014": Entry(
        "a told value or its noise is no number",
        "A value is one finite number, or NaN for a failure; noise is an int, the number of examples behind a "
        "mean, or a float, its variance.",
    ),
    "DX3015": Entry(
        "nothing to recommend",
        "A recommendation needs at least one candidate with a value. Nothing was told, or every candidate "
        "failed: look at why they fail first.",
    ),
    "DX3016": Entry(
        "a race that cannot be run",
        "A race needs at least one candidate and one example, none of them twice, eta of at least 2, and "
        "positive keep and first; Race also a budget that is not negative, a lag of at least 1, a gate between 0 "
        "and 1, and a policy that it knows.",
    ),
    "DX3017": Entry(
        "a result that does not belong to the race",
        "Only the race's candidates and examples may be reported, each pair with one score, finite or None "
        "for a failure. Two different scores for one pair mean that the caller mixed up results.",
    ),
    "DX3025": Entry(
        "an evolution that cannot be run, or a state of another one",
        "A population has at least two individuals and one objective; the probabilities of crossover and mutation "
        "lie in [0, 1]. A state continues only an engine with the same size and objectives.",
    ),
    "DX3026": Entry(
        "losses that are not one generation's",
        "tell() takes one column of losses for each candidate that ask() returned, in the same order, one row for "
        "each objective. Use NaN for a candidate that failed.",
    ),
    "DX3027": Entry(
        "a reference point that does not fit the losses",
        "The hypervolume is measured from a reference point with one finite number for each of two or more "
        "objectives, worse than every loss that is to count.",
    ),
    "DX3035": Entry(
        "not the state of a race",
        "Race.resume takes what Race.state() returned, whole. A state that lost or changed a part cannot be continued: "
        "start a race with the same arguments and report the results that are known.",
    ),
    "DX3040": Entry(
        "not a number of candidates",
        "ask() returns one candidate, ask(n) a list of n for n = 0, 1, 2, … to be evaluated at the same time.",
    ),
    "DX3045": Entry(
        "a library of compiled kernels is not whole",
        "Its bytes do not match the hash at its end: an installation or a copy that broke off. Kernels are compiled on "
        "this machine instead, with the same results. Install dspex again, or delete the file that is named.",
    ),
}
