"""For every kernel: a strategy for its arguments, which of them it writes, and its naive oracle.

One file for each family of kernels; each registers its cases by `@case`.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.core.cases.registry import CASES, Case

__all__ = ["CASES", "Case"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
