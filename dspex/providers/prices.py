"""What a hosted model costs: prices of one's own, else the offline snapshot of genai-prices (extra `prices`).

Looked up when a price is first asked for, and never over the network. `LM(price=...)` goes before everything here. A
model that is nowhere, or that charges for more than tokens, has the price None: unpriced, which is not free.

Prices of one's own stand in the TOML file that the setting ``prices`` names, relative to the project. A table is named
``MODEL``, or ``HOST/MODEL`` for that server alone, which goes first; its keys are those of `Price`::

    ["llm.example.com/llama-3.3-70b"]
    input = 0.6
    output = 0.9

    ["gemini-2.5-pro"]
    input = 1.25
    output = 10.0
    cached = 0.125
    above = [{ tokens = 200_000, input = 2.5, output = 15.0, cached = 0.25 }]
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from dspex.errors import UsageError
from dspex.lm.types import Price
from dspex.settings import project_dir, setting

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

_BEYOND_TOKENS = ("requests_kcount", "output_reasoning_mtok")
"""What a snapshot's price may charge for that `Price` cannot say."""


def list_price(base_url: str, model: str) -> Price | None:
    """Price of `model` at the server whose API lives under `base_url`; None when it is not known.

    Raises:
        UsageError: DX8135: the file that the setting ``prices`` names is not sound.
    """
    parts = urlsplit(base_url)
    name = setting("prices")
    if name:
        file = project_dir() / Path(name).expanduser()
        own = _own_prices(file, _version(file))
        found = own.get(f"{parts.netloc.rpartition('@')[2]}/{model}", own.get(model))
        if found is not None:
            return found
    return None if is_private(parts.hostname or "") else _listed(base_url, model)


def is_private(host: str) -> bool:
    """Whether `host` can only be a machine of one's own network."""
    if "." not in host and ":" not in host:
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False


# ----------------------------------------------------------------- the snapshot


@lru_cache(maxsize=256)
def _listed(base_url: str, model: str) -> Price | None:
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None
    try:
        rates = calc_price(Usage(input_tokens=0, output_tokens=0), model, provider_api_url=base_url).model_price
    except (LookupError, ValueError):
        return None
    if getattr(rates, "input_mtok", None) is None or any(getattr(rates, key, None) for key in _BEYOND_TOKENS):
        return None
    starts = {tier.start for rate in vars(rates).values() for tier in getattr(rate, "tiers", ())}
    base = _rates(rates, 0)
    above = tuple((start, _rates(rates, start + 1)) for start in sorted(starts))
    return Price(base.input, base.output, base.cached, base.written, above)


def _rates(rates: ModelPrice, tokens: int) -> Price:
    """The price of a prompt of so many tokens. One that names no output is of a model that generates none."""

    def dollars(key: str) -> float | None:
        rate: object = getattr(rates, key, None)
        for tier in getattr(rate, "tiers", ()):
            if tokens > tier.start:
                rate = tier.price
        rate = getattr(rate, "base", rate)
        return None if rate is None else float(cast(float, rate))

    return Price(
        dollars("input_mtok") or 0.0,
        dollars("output_mtok") or 0.0,
        dollars("cache_read_mtok"),
        dollars("cache_write_mtok"),
    )


# ----------------------------------------------------------------- prices of one's own


def _version(file: Path) -> tuple[int, int]:
    """What changes when `file` does."""
    try:
        state = file.stat()
    except OSError as error:
        raise _unsound(file, f"cannot be read: {error.strerror}") from error
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=8)
def _own_prices(file: Path, _version: tuple[int, int]) -> dict[str, Price]:
    try:
        document: dict[str, object] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unsound(file, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _unsound(file, f"is not TOML: {error}") from error
    return {name: _own_price(file, name, table) for name, table in document.items()}


def _own_price(file: Path, name: str, table: object) -> Price:
    if not isinstance(table, dict):
        raise _unsound(file, f"says of {name!r} {table!r:.60}, which is no table")
    fields = dict(cast("dict[str, object]", table))
    tiers = fields.pop("above", [])
    if not isinstance(tiers, list):
        raise _unsound(file, f"gives {name!r} an above= that is no list of tables")
    numbers: dict[str, float] = {}
    for key, value in fields.items():
        if key not in ("input", "output", "cached", "written"):
            raise _unsound(file, f"gives {name!r} the unknown key {key!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unsound(file, f"gives {name!r} {key} = {value!r:.60}, which is no number")
        numbers[key] = value
    if "input" not in numbers or "output" not in numbers:
        raise _unsound(file, f"gives {name!r} no input or no output")
    above: list[tuple[int, Price]] = []
    for tier in cast("list[object]", tiers):
        rest = dict(cast("dict[str, object]", tier)) if isinstance(tier, dict) else {}
        start = rest.pop("tokens", None)
        if isinstance(start, bool) or not isinstance(start, int):
            raise _unsound(file, f"gives {name!r} an above= with an entry without tokens")
        above.append((start, _own_price(file, f"{name} above {start} tokens", rest)))
    try:
        return Price(**numbers, above=tuple(above))
    except UsageError as error:
        raise _unsound(file, f"gives {name!r} a price that cannot be: {error.message}") from error


def _unsound(file: Path, reason: str) -> UsageError:
    return UsageError(
        "DX8135",
        f"the file of prices {reason}",
        where=str(file),
        fix='a table for each model, in dollars per million tokens: ["gpt-4.1-mini"], input = 0.4, output = 1.6',
    )
