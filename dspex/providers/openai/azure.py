"""Azure OpenAI: OpenAI's protocols at a resource's own address, a model named by its deployment.

``azure/DEPLOYMENT`` with ``base_url="https://RESOURCE.openai.azure.com"`` or ``AZURE_OPENAI_ENDPOINT`` asks
``/openai/deployments/DEPLOYMENT/...?api-version=...``. The version is ``OPENAI_API_VERSION`` or
``extra={"api-version": ...}``. An address that ends in ``/openai/v1`` is of the API without versions, where the
deployment is named in the body.

A key is sent as ``api-key``; a token of Microsoft Entra, known by its form, as a bearer token. The variables are
``AZURE_OPENAI_AD_TOKEN`` and ``AZURE_OPENAI_API_KEY``; both belong to ``AZURE_OPENAI_ENDPOINT``.

What a model can do is guessed from the deployment's name as if it were OpenAI's name of the model.

Source: Microsoft Learn, "Azure OpenAI in Azure AI Foundry Models REST API reference".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from dspex.errors import UsageError
from dspex.lm.model import LM
from dspex.lm.types import Capabilities
from dspex.providers.asking import Vocabulary
from dspex.providers.http import Client, bearer
from dspex.providers.keys import base_url_for, key_for
from dspex.providers.openai.chat import OpenAIModel, openai_dialect
from dspex.providers.openai.embeddings import OpenAIEmbeddings
from dspex.providers.openai.errors import read_words
from dspex.providers.openai.site import CHAT, EMBEDDINGS, Site, openai_capabilities
from dspex.providers.served import Served

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

VERSION = "2024-10-21"
"""The last stable version of the API that has versions."""

_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_FIELD = "api-version"


def open_azure(lm: LM, transport: AnyTransport | None = None) -> OpenAIModel:
    """The deployment behind `lm`; see the module for where its URL, version and key come from.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 no or malformed URL, DX8119 malformed version.
    """
    served, site = _served(lm, CHAT, openai_capabilities(lm.model.partition("/")[2]), transport)
    endpoint = "/chat/completions" if site.query else "/v1/chat/completions"
    return OpenAIModel(served, site, openai_dialect(served), halved=True, endpoint=endpoint)


def open_azure_embeddings(lm: LM, transport: AnyTransport | None = None) -> OpenAIEmbeddings:
    """The deployment of an embedding model behind `lm`; arguments and errors are those of `open_azure`."""
    return OpenAIEmbeddings(*_served(lm, EMBEDDINGS, Capabilities(), transport), packed=True)


def _served(
    lm: LM, says: Vocabulary, capabilities: Capabilities, transport: AnyTransport | None
) -> tuple[Served, Site]:
    base_url = base_url_for(lm, "AZURE_OPENAI_ENDPOINT", "")
    extra = dict(lm.extra)
    version = extra.pop(_FIELD, None) or os.environ.get("OPENAI_API_VERSION") or VERSION
    if not isinstance(version, str) or not re.fullmatch(r"[\w.-]+", version):
        raise UsageError("DX8119", f"an api-version is a text such as {VERSION}, got {version!r}", where=lm.model)
    site = _site(base_url, lm.model.partition("/")[2], version)
    plain = replace(lm, extra=extra)
    client = Client(
        plain,
        base_url,
        key=lambda: key_for(lm, ("AZURE_OPENAI_AD_TOKEN", "AZURE_OPENAI_API_KEY"), True),
        keyed=_keyed,
        key_from="api_key=, AZURE_OPENAI_API_KEY or AZURE_OPENAI_AD_TOKEN",
        read=read_words,
        transport=transport,
    )
    served = Served(plain, client, says, capabilities, variant=site.query)
    return served, site


def _keyed(key: str) -> Mapping[str, str]:
    return bearer(key) if _TOKEN.fullmatch(key) else {"api-key": key}


def _site(base_url: str, deployment: str, version: str) -> Site:
    if base_url.endswith("/openai/v1"):
        return Site(base_url, base_url)
    root = base_url if base_url.endswith("/openai") else f"{base_url}/openai"
    return Site(f"{root}/deployments/{quote(deployment, safe='')}", root, f"?{_FIELD}={version}")
