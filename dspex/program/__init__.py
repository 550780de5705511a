"""What a user writes: schemas, Variables, rules, modules, programs.

`dx.program` is the decorator and `dspex.program` is this package, and Python has one place for both names: so this
module can be called, and calling it is `function.program`.
"""

from __future__ import annotations

import sys
from types import ModuleType


class _Decorator(ModuleType):
    def __call__(self, function: object, /) -> object:
        from dspex.program.function import program

        return program(function)  # type: ignore[call-overload]  # pyright: ignore


sys.modules[__name__].__class__ = _Decorator
