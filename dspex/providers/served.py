"""What every model over HTTP is besides its protocol: identity, price, capabilities and connections."""

from __future__ import annotations

from collections.abc import Callable

from dspex.lm.model import LM
from dspex.lm.types import Capabilities, LMRequest, Price
from dspex.providers.asking import Vocabulary, check_needs, extra_identity
from dspex.providers.http import Client
from dspex.providers.prices import list_price
from dspex.providers.transport import place


class Served:
    """One model of one server.

    Args:
        lm: What was configured.
        client: The connections to the server.
        says: What the protocol has words for.
        can: What the model can do unless `lm` says otherwise.
        price: Looks up a price that `lm` does not give.
        variant: What else tells apart two models of this name at this URL.
    """

    def __init__(
        self,
        lm: LM,
        client: Client,
        says: Vocabulary,
        can: Capabilities,
        *,
        price: Callable[[str, str], Price | None] = list_price,
        variant: str = "",
    ) -> None:
        self.name = lm.model
        self.model = lm.model.partition("/")[2]
        self.base_url = client.base_url
        self.client = client
        self.capabilities = (lm.capabilities or can).within(says.can)
        self.extra = dict(lm.extra)
        self.prompt_cache = lm.prompt_cache
        self.fingerprint = _fingerprint(lm, client.base_url, variant, self.capabilities)
        self._says = says
        self._price = lm.price
        self._look_up = None if lm.price is not None else price

    def check(self, request: LMRequest) -> None:
        """Refuse what the model cannot do or the protocol has no words for; see `check_needs`."""
        check_needs(request, self.capabilities, self.client, self._says)

    @property
    def price(self) -> Price | None:
        """See `LanguageModel.price`; looked up on first use."""
        if self._look_up is not None:
            self._price, self._look_up = self._look_up(self.base_url, self.model), None
        return self._price


class ServedModel:
    """A model that a `Served` tells all about but how it is spoken to."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._client = served.client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={place(self._served.base_url)!r})"

    @property
    def name(self) -> str:
        return self._served.name

    @property
    def fingerprint(self) -> str:
        return self._served.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        return self._served.capabilities

    @property
    def price(self) -> Price | None:
        return self._served.price

    async def aclose(self) -> None:
        await self._client.aclose()


def _fingerprint(lm: LM, base_url: str, variant: str, can: Capabilities) -> str:
    # What a model can do decides what its server is asked for beyond what a request says.
    flags = "".join(f":{name}" for name in ("json_schema", "json_mode", "seed", "reasoning") if getattr(can, name))
    return f"{lm.provider}:{place(base_url)}:{lm.model.partition('/')[2]}{variant}{flags}{extra_identity(lm.extra)}"
