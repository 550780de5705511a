"""What a hosted model costs: the offline snapshot of genai-prices (extra `prices`), looked up on first use.

The list is a hint and never fetched from the network; `LM(price=...)` overrides it. Without the extra, or for a host
that is not on the list, the price is None: unpriced, which is not free.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from dspex.lm.types import Price

_PER = 1_000  # below every provider's first tier, so that the base rate is read


def _is_private(host: str) -> bool:
    if "." not in host and ":" not in host:
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False


@lru_cache(maxsize=256)
def list_price(base_url: str, model: str) -> Price | None:
    """Price of `model` at the provider whose API lives under `base_url`; None when the list does not have it.

    Rates are those of the provider's first tier; where longer prompts cost more, a long prompt is underestimated.
    """
    host = urlsplit(base_url).hostname or ""
    if not host or _is_private(host):
        return None
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None

    def dollars(usage: Usage) -> float:
        price = calc_price(usage, model, provider_api_url=base_url)
        return float(price.total_price) * 1_000_000 / _PER

    try:
        fresh = dollars(Usage(input_tokens=_PER, output_tokens=0))
        cached = dollars(Usage(input_tokens=_PER, cache_read_tokens=_PER, output_tokens=0))
        return Price(input=fresh, output=dollars(Usage(input_tokens=0, output_tokens=_PER)), cached=cached)
    except (LookupError, ValueError):
        return None
