"""What each error code means, why it happens and how to fix it: the text behind `dspex explain CODE`.

One file a range, in the order of the tree in `errors.py`; codes in ascending order inside it. A test
compares the codes here with those that the sources raise, in both directions.
"""

from __future__ import annotations

from dspex.catalogue.compile import COMPILE
from dspex.catalogue.core import CORE
from dspex.catalogue.data import DATA
from dspex.catalogue.entry import Entry
from dspex.catalogue.lm import LM
from dspex.catalogue.local import LOCAL
from dspex.catalogue.program import PROGRAM
from dspex.catalogue.study import STUDY
from dspex.catalogue.usage import USAGE

__all__ = ["CATALOGUE", "COMPILE", "CORE", "DATA", "LM", "LOCAL", "PROGRAM", "STUDY", "USAGE", "Entry"]

CATALOGUE: dict[str, Entry] = {**PROGRAM, **COMPILE, **CORE, **LM, **DATA, **STUDY, **LOCAL, **USAGE}
