"""A space in the core's form: its table, and the way between configurations and columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dspex.compiler.lower.bytecode import option_index
from dspex.core.table import ParamTable
from dspex.errors import CompileError
from dspex.program.computed import Computed, fill
from dspex.program.rules import Rule
from dspex.program.variables import Float, Int, Var

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dspex.core.population import Sampler

__all__ = ["Lowered", "Note"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is allowed and probably not meant.

    Attributes:
        code: ``DX2114`` a rule that always holds, ``DX2116`` a Variable that is never active.
        message: What, with the values.
        where: File and line.
        fix: What to do about it.
    """

    code: str
    message: str
    where: str | None
    fix: str

    def __str__(self) -> str:
        at = f"\n  at {self.where}" if self.where else ""
        return f"{self.code} {self.message}{at}\n  fix: {self.fix}"


@dataclass(frozen=True, eq=False)
class Lowered:
    """A space in the core's form.

    Attributes:
        table: The validated parameter table; row i is Variable `names[i]`.
        variables: The Variables in row order, parents before children; computed ones have no row.
        rules: The rules in the order of the table's code.
        computed: The computed Variables, each after those that it is computed from.
        settled: The rules that always hold; they have no code.
        conditions: The conditions that have an effect, over rows alone, by name.
        notes: What is allowed and probably not meant.
    """

    table: ParamTable
    variables: tuple[Var[Any], ...]
    rules: tuple[Rule, ...]
    computed: tuple[Computed[Any], ...] = ()
    settled: tuple[Rule, ...] = ()
    conditions: Mapping[str, Rule] | None = None
    notes: tuple[Note, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each row."""
        return tuple(variable.name for variable in self.variables)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each name."""
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default configuration, inactive and computed Variables included."""
        config = dict(self._defaults)
        fill(self.computed, config)
        return config

    @cached_property
    def default(self) -> NDArray[np.float64]:
        """The default configuration as a column."""
        return self.encode({})

    @cached_property
    def sampler(self) -> Sampler:
        """Draws candidates under the rules."""
        from dspex.core.population import Sampler

        return Sampler(self.table, [str(rule) for rule in self.rules], self.default)

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {variable.name: variable.default for variable in self.variables}

    @cached_property
    def _always(self) -> frozenset[str]:
        return frozenset(self.names) if self.conditions is None else frozenset(self.names) - self.conditions.keys()

    @cached_property
    def _conditional(self) -> tuple[tuple[str, Rule, frozenset[str]], ...]:
        """Name, condition and what it mentions, in row order."""
        conditions = self.conditions or {}
        return tuple((name, conditions[name], conditions[name].names()) for name in self.names if name in conditions)

    def _active_rows(self, config: Mapping[str, object]) -> set[str]:
        active = set(self._always)
        for name, when, needed in self._conditional:
            if needed <= active and when.test(config):
                active.add(name)
        return active

    def active(self, config: Mapping[str, object]) -> frozenset[str]:
        """Names of the Variables that are active under `config`; what it lacks is at its default."""
        full = {**self._defaults, **config}
        active = self._active_rows(full)
        for variable in self.computed:
            when = variable.when
            if not active.issuperset(variable.of) or (when is not None and not when.names() <= active):
                continue
            if when is not None and not when.names() <= self.rows.keys():
                # A condition over computed Variables is the only reason to compute them here.
                full = dict(full)
                fill(self.computed, full)
            if when is None or when.test(full):
                active.add(variable.name)
        return frozenset(active)

    def encode(self, config: Mapping[str, object]) -> NDArray[np.float64]:
        """The column of a configuration, (D,) float64; what it lacks is at its default, inactive rows are NaN.

        Values of computed Variables are passed over: they follow from the others.

        Raises:
            ProgramError: for a value outside its domain.
            CompileError: DX2111 for an unknown name, DX2113 for a value without a category.
        """
        import numpy as np

        from dspex.core.kernels import encode

        unknown = config.keys() - self.rows.keys()
        unknown.difference_update(variable.name for variable in self.computed)
        if unknown:
            names = ", ".join(sorted(unknown))
            raise CompileError("DX2111", f"no Variable is named {names}", fix="see space.variables")
        full = {**self._defaults, **config}
        active = self._active_rows(full)
        numbers: list[float] = []
        for name, variable, places in self._writers:
            if name not in active:
                numbers.append(math.nan)
                continue
            value = variable.canonical(full[name])
            if places is None:
                numbers.append(value)
                continue
            # Values without a hash, and members that are equal to an option without being it, are looked for.
            index = places.get(_key(value))
            index = option_index(variable, value) if index is None else index
            if index is None:
                raise CompileError(
                    "DX2113",
                    f"{value!r:.200} is not one of the options of {name!r}",
                    fix="add it to the pool, or bind one of its members",
                )
            numbers.append(float(index))
        values = np.array(numbers, dtype=np.float64).reshape(-1, 1)
        column = np.empty_like(values)
        encode.encode(self.table, values, column)
        return column[:, 0]

    @cached_property
    def _writers(self) -> list[tuple[str, Var[Any], dict[object, int] | None]]:
        """Name, Variable and the place of each option."""
        return [
            (
                variable.name,
                variable,
                {_key(option): index for index, option in enumerate(variable.options)} if variable.options else None,
            )
            for variable in self.variables
        ]

    def decode(self, column: NDArray[np.float64]) -> dict[str, Any]:
        """The full configuration of a column: Python values by name, inactive Variables at their defaults.

        Raises:
            CoreError: DX3007 when it is no column of this table.
        """
        import numpy as np

        return self._configs(np.ascontiguousarray(column, dtype=np.float64).reshape(-1, 1))[0]

    def _configs(self, population: NDArray[np.float64]) -> list[dict[str, Any]]:
        """The configuration of each candidate."""
        import numpy as np

        from dspex.core import checks
        from dspex.core.kernels import encode

        values = np.empty_like(checks.population(self.table, population))
        encode.decode(self.table, population, values)
        configs: list[dict[str, Any]] = []
        for numbers in values.T.tolist():
            config: dict[str, Any] = {}
            for number, (name, options, lo, hi, whole, exact, default) in zip(numbers, self._readers, strict=True):
                if number != number:
                    config[name] = default
                elif options:
                    config[name] = options[int(number)]
                elif whole:
                    config[name] = int(number)
                elif number in exact:
                    config[name] = exact[number]
                else:
                    config[name] = number if lo <= number <= hi else min(max(number, lo), hi)
            fill(self.computed, config)
            configs.append(config)
        return configs

    @cached_property
    def _readers(self) -> list[tuple[str, tuple[object, ...], Any, Any, bool, dict[float, float], Any]]:
        """How each row is read: name, options, bounds, whole numbers, exact forms, default."""
        readers: list[tuple[str, tuple[object, ...], Any, Any, bool, dict[float, float], Any]] = []
        for variable in self.variables:
            lo = hi = 0
            exact: dict[float, float] = {}
            if isinstance(variable, Float | Int):
                lo, hi = variable.lo, variable.hi
            if isinstance(variable, Float) and variable.log:
                # A default, or a bound, with more digits than a decoded value has comes back as it was written.
                for known in (variable.hi, variable.lo, variable.default):
                    exact[float(f"{known:.12g}")] = known
            whole = isinstance(variable, Int)
            readers.append((variable.name, variable.options, lo, hi, whole, exact, variable.default))
        return readers

    def sample(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Random configurations that obey the rules.

        Raises:
            CoreError: DX3010 when none was found, naming the rules.
        """
        return self._configs(self.sampler.sample(n, seed & (2**63 - 1)))

    def __str__(self) -> str:
        from dspex.compiler.lower.listing import listing

        return listing(self)


def _key(option: object) -> object:
    """What finds an option quickly: canonical values are the options themselves, or texts equal to them."""
    return option if isinstance(option, str) else id(option)
