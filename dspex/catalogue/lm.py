"""Codes DX4xxx: language-model calls and budgets."""

from __future__ import annotations

from dspex.catalogue.entry import Entry

LM: dict[str, Entry] = {
    "DX4001": Entry(
        "no language model is chosen",
        "A call looks for its model on the module, on the program, in `with dx.using(lm=…)`, in DSPEX_LM, and in "
        "[tool.dspex] of pyproject.toml, in this order, and found none. Set one of them; local/smollm2 runs "
        "on this machine "
        "without any key.",
    ),
    "DX4101": Entry(
        "the server cannot be reached",
        "The connection was refused, the name is unknown or the network has no way there; nothing was sent. "
        "Check that the server runs and that base_url names its host and port. Such a call is tried again.",
    ),
    "DX4102": Entry(
        "TLS failed",
        "The server's certificate is not trusted or the two sides agree on no protocol; nothing was sent. "
        "Behind a company's proxy set SSL_CERT_FILE to the certificate bundle that the network needs. "
        "Verification cannot be switched off.",
    ),
    "DX4103": Entry(
        "the connection took too long",
        "No connection, TLS included, came about within the connect timeout (10 s, or timeout= when that is "
        "less); nothing was sent. The host drops packets or is overloaded.",
    ),
    "DX4104": Entry(
        "the server fell silent",
        "The server was silent, or took nothing, for longer than the read timeout. The request was sent, so "
        "it may have been carried out and may cost money: sent says maybe before the answer began, yes after.",
    ),
    "DX4105": Entry(
        "the call took longer than its timeout",
        "The whole attempt exceeded LM(timeout=...). The request was sent, so it may have been carried out. "
        "Raise timeout= for slow models, or lower max_tokens or concurrency.",
    ),
    "DX4106": Entry(
        "the connection broke after sending",
        "The server or something between closed or reset the connection after the request was sent and before "
        "any answer. Whether the server did the work is unknown: sent is maybe.",
    ),
    "DX4107": Entry(
        "the response broke off",
        "The answer began and its body ended early or cannot be decoded. The server did the work, so it may "
        "be charged; the call is tried again.",
    ),
    "DX4108": Entry(
        "the answer is not HTTP",
        "What answered does not speak HTTP/1.1, or base_url has the wrong scheme or port. Check base_url with curl.",
    ),
    "DX4109": Entry(
        "the response is too large",
        "A response is read up to 64 MiB, so that a broken server cannot exhaust memory. A completion is "
        "never that large; check what base_url points to.",
    ),
    "DX4110": Entry(
        "the proxy refused",
        "HTTPS_PROXY or HTTP_PROXY names a proxy that did not let the request through, for example because it "
        "wants other credentials; the model's server got nothing. Add the host to NO_PROXY to go without.",
    ),
    "DX4201": Entry(
        "the model is not known to support this",
        "The request needs raw prompts, enforced choices or scores, and nothing is assumed of a server other "
        "than OpenAI's own. If the server can do it, say so: dx.LM(..., "
        "capabilities=Capabilities(raw_prompt=True, json_schema=True, choices=True)).",
    ),
    "DX4202": Entry(
        "401: the key was not accepted",
        "The server knows no such key, or got none. A base_url given in code gets only api_key=, never "
        "OPENAI_API_KEY, so that a key meant for OpenAI does not reach another host.",
    ),
    "DX4203": Entry(
        "403: the key may not do this",
        "The key is known and may not use this model, region or project.",
    ),
    "DX4204": Entry(
        "404: no such model or address",
        "Either the server has no model of this name or base_url does not end where its API begins; it "
        "usually ends in /v1.",
    ),
    "DX4205": Entry(
        "the server rejected the request",
        "A 4xx status: the server says what it dislikes in the message. The same request will fail again, so "
        "it is not retried.",
    ),
    "DX4206": Entry(
        "the server redirects",
        "Redirects are not followed, because they would carry the key and the prompt to an address that "
        "nobody named. Set base_url to the final address.",
    ),
    "DX4207": Entry(
        "429: too many requests",
        "The provider limits requests or tokens, or the account is empty (insufficient_quota, which is not "
        "retried). dspex waits as long as Retry-After says; lower concurrency= when it happens often.",
    ),
    "DX4208": Entry(
        "the server failed",
        "A 5xx status, or 408, 409 or 425. The call is tried again with growing pauses. The message holds the "
        "server's own words.",
    ),
    "DX4301": Entry(
        "the body is not JSON",
        "The server answered 200 with something else, often the HTML page of a proxy or a login. Check base_url.",
    ),
    "DX4302": Entry(
        "the body is not a completion",
        "The JSON lacks choices, a message or its text. base_url must be the root of an OpenAI-compatible "
        "API; it usually ends in /v1.",
    ),
    "DX4303": Entry(
        "the server did not enforce the choices",
        "LM(capabilities=...) says that the server keeps answers to a closed set, and it answered outside of "
        "it. Leave choices out of the capabilities for this server; then dspex validates instead.",
    ),
    "DX4401": Entry(
        "the request was not recorded",
        "replay() answers only what its recording holds, and this request differs: the message names how it "
        'differs from the nearest one. Record again with replay(path, lm, mode="record"), or undo the change.',
    ),
    "DX4402": Entry(
        "the answer cannot be recorded",
        "The model answered and the recording could not be appended to, for example because the disk is full. "
        "Free space and run again; what was recorded is kept.",
    ),
    "DX4403": Entry(
        "a scripted answer is none of the choices",
        "The request asks for a score of each choice, and the script named something else, so none can be "
        "scored. Let the script return one of request.choices.",
    ),
    "DX4404": Entry(
        "a scripted mapping does not fit the request",
        "The request has one output field, and the script returned a mapping without it, or with several values where "
        "there are choices. Return the one field, or a text.",
    ),
    "DX4405": Entry(
        "a script gave nothing that can be an answer",
        "The function of a ScriptedLM returns the output's fields as a mapping, the raw text, or an LMResponse; "
        "None is what a function without a return statement gives. Return one of the three for every request.",
    ),
    "DX4501": Entry(
        "a budget's cap must be a positive amount",
        "Caps on calls and tokens are whole numbers of at least 1; usd is a positive number of dollars; wall is "
        "seconds or "
        "a text such as 90s, 4m or 1h30m. A cap of zero would forbid the first call. Leave a cap out to have none.",
    ),
    "DX4502": Entry(
        "a cap of the budget would be broken",
        "Before a call is sent its upper bound (one call, the bytes of the prompt, max_tokens, their price) is "
        "reserved, and "
        "it no longer fits what the budget has left. Nothing was sent. Raise the cap, lower max_tokens or shorten the "
        "prompt; what was spent so far is in the trace.",
    ),
    "DX4503": Entry(
        "dollars are capped and the model has no known price",
        "An unknown price is not zero, so a cap on dollars could not be kept. Give the price in dollars per "
        "million tokens, "
        "dx.LM(..., price=Price(input, output)), or FREE for a server of your own; or cap calls or tokens instead.",
    ),
    "DX4504": Entry(
        "a reservation was closed twice",
        "Each reservation of a budget is settled, released or left uncertain exactly once. This is a defect of "
        "dspex or of "
        "an Account that you wrote; please report it with the traceback.",
    ),
    "DX4601": Entry(
        "the answer does not fit the output schema",
        "The model answered, was shown what is wrong with its answer, and answered again, still not in the form of the "
        "output schema. The message quotes the answer and the rule that it breaks. Make the instruction clearer, add "
        "demonstrations, widen the schema, or use a model that enforces schemas or choices.",
    ),
    "DX4602": Entry(
        "the answer was cut off at max_tokens",
        "The model reached the limit of generated tokens before its answer was complete, so it could not be read. "
        "Asking "
        "again would end the same way. Raise max_tokens on the module.",
    ),
    "DX4603": Entry(
        "the module scores choices and cannot",
        "scoring='logprob' and scoring='calibrated' need an output of one closed choice and a model that gives the "
        "log-probability of each choice. Use scoring='generate', or a model such as local/smollm2.",
    ),
    "DX4604": Entry(
        "a scoring request was answered without scores",
        "The model says that it can score choices, but its response has no choice_logprobs. For a model object of "
        "your own, "
        "return them, one for each of request.choices, or set score_choices=False in its capabilities.",
    ),
    "DX4701": Entry(
        "an attempt ran into its timeout",
        "The model did not answer within the timeout of dx.LM(timeout=...). The request may have been carried out and "
        "charged, so a budget counts its upper bound as spent, uncertain. It is retried as often as retries= allows.",
    ),
    "DX4702": Entry(
        "the deadline of the run passed",
        "run(timeout=...) or the surrounding deadline ended before the model answered. What was in the air was "
        "cancelled and "
        "counts as spent, uncertain. Give more seconds, or see in the trace what took the time.",
    ),
}
