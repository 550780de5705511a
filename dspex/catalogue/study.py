"""Codes DX6xxx: studies, the event log and stores."""

from __future__ import annotations

from dspex.catalogue.entry import Entry

STUDY: dict[str, Entry] = {
    "DX6101": Entry(
        "the disk is full",
        "An event could not be written. The append that failed left nothing behind, and every event that was "
        "acknowledged before is safe and readable. Free some space and resume the study.",
    ),
    "DX6102": Entry(
        "the event log has reached its size limit",
        "The log stops at DSPEX_LOG_BYTES (4 GiB by default) so that it never fills a disk. What was acknowledged is "
        "safe. Delete studies that are not needed any more (dspex study delete ID) or raise the limit.",
    ),
    "DX6103": Entry(
        "the event log cannot be read or written",
        "The operating system refused: permissions, a file size limit, a read-only disk, a disk error, or another "
        "process that kept the file locked for half a minute. The message has SQLite's own words.",
    ),
    "DX6104": Entry(
        "the file is not a sound event log",
        "The file is damaged or belongs to another program. dspex never overwrites or repairs it by itself: move "
        "it away, "
        "or set DSPEX_HOME to another directory. `sqlite3 studies.db .recover` may save events of a damaged log.",
    ),
    "DX6105": Entry(
        "a study is in use by another process",
        "Only one process at a time may run, resume or delete a study. The message names the one that does. The lock "
        "ends with that process, however it ends; there is nothing to clean up after a crash.",
    ),
    "DX6106": Entry(
        "the event log stands on a network file system",
        "SQLite's write-ahead log needs memory and file locks shared by all processes, which only a local disk "
        "gives; over "
        "NFS, CIFS and the like events would be lost. Set DSPEX_HOME to a directory on a local disk.",
    ),
    "DX6107": Entry(
        "the payload of an event is a JSON object",
        "Something in it is not text, number, true, false, null, list or mapping. Convert it before it is logged.",
    ),
    "DX6108": Entry(
        "the event log is closed",
        "The store was closed before this call, for example at the end of its with block. Open another one.",
    ),
    "DX6109": Entry(
        "deleted events may still be in the write-ahead log",
        "The events are gone from the log, but another process reads the file, so that the write-ahead log, which "
        "still "
        "has their text, could not be emptied. End that process and delete the study again.",
    ),
    "DX6110": Entry(
        "the event log was written by a newer dspex",
        "Its format has a version that this dspex does not know. Upgrade dspex, or use another directory.",
    ),
    "DX6121": Entry(
        "an event of unknown kind",
        "The log holds an event that this dspex does not know, most likely written by a newer one. Use that version.",
    ),
    "DX6122": Entry(
        "an event is not of its kind's shape",
        "A field is missing, unknown or of another type: the log was edited, or written by another version of dspex.",
    ),
    "DX6201": Entry(
        "there is no such study",
        "The store holds no events of a study with this name. Studies live in the file studies.db under "
        "DSPEX_HOME; another DSPEX_HOME or another store has others. `dspex study list` shows what there is.",
    ),
    "DX6202": Entry(
        "the study was begun with something else",
        "A resumed study repeats every decision of the one that was interrupted, which needs the same program, "
        "data, metric and versions. The message lists what differs. Undo the change, begin a new study, or resume "
        "with accept_changes=True (--accept-changes): settled answers are then still used where the requests are "
        "equal.",
    ),
    "DX6203": Entry(
        "the budget is missing or too small",
        "A study evaluates the default, the best zero-shot format and the winner on the same held-out examples; "
        "that part of the budget is set aside before anything is spent. The message names the least number of "
        "calls. Give at least that many, fewer held-out examples, or a cap on dollars, tokens or time instead.",
    ),
    "DX6204": Entry(
        "a resumed study took another way",
        "A decision or proposal differs from the one in the log, although program, data, metric and versions are "
        "the same. Something answers differently for equal requests: a metric or a program that draws random "
        "numbers, or a log without contents over a model that samples. Begin a new study.",
    ),
    "DX6205": Entry(
        "unknown strategy",
        "strategy= names the recipe of the search: auto (the tree-structured Parzen estimator with paired racing), "
        "tpe or random.",
    ),
    "DX6206": Entry(
        "unknown failure policy",
        "on_failure= says what an example without a score counts as: worst (0, or the lowest score if that is "
        "below 0), exclude (nothing) or stop (the study ends).",
    ),
    "DX6207": Entry(
        "the store holds a study of this name already",
        "Every study has a name of its own in its store. Resume the one that is there, choose another study_id, or "
        "leave study_id out for a new one.",
    ),
    "DX6208": Entry(
        "concurrency is at least 1",
        "concurrency= is the number of evaluations that a study has in flight at once. Leave it out to use the "
        "limit of the model.",
    ),
    "DX6209": Entry(
        "the study was not begun from the command line",
        "A study that was begun from Python records no import paths, so the command line cannot find its program, "
        "data and metric. Resume it where it was begun, with dspex.study.loop.resume.",
    ),
    "DX6210": Entry(
        "a seed is no whole number",
        "Everything random of a study follows from seed=, so that equal seeds give equal results. Give an integer; "
        "which one does not matter.",
    ),
    "DX6211": Entry(
        "the model cannot be reached",
        "Several evaluations in a row ended without an answer of the model: it is down, refuses the key, or limits "
        "the rate. The study stops rather than count them as wrong answers; nothing that was bought is lost. See "
        "that the model works, then resume the study.",
    ),
    "DX6212": Entry(
        "the metric fails on every example",
        "Each of the first evaluations ended in an exception of the metric or in a result that is no finite "
        "number, so the budget is not spent on more of them. The message holds the first reason. Correct the "
        "metric and begin a new study.",
    ),
    "DX6213": Entry(
        "an evaluation failed and on_failure is stop",
        "The study was told to stop at the first example that fails. The message holds its reason. Correct the "
        'cause, or choose on_failure="worst" or "exclude".',
    ),
    "DX6214": Entry(
        "no evaluation gave a score",
        "Not one evaluation of the first rung, with whatever configuration, gave a score. The message holds the "
        "first reason. See whether the program runs on one example: program.run(example.input).",
    ),
    "DX6215": Entry(
        "a study's winner cannot be read back",
        "`dspex compile --study ID` binds what a finished study found. The study has no end yet, or its log does not "
        "hold the winning texts: it keeps no training data for nearest demonstrations, and no texts unless content is "
        "'full'. `dspex study resume ID -o FILE` finishes the study, or repeats nothing and writes the artifact.",
    ),
}
