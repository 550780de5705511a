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
        "Behind a company's proxy name the certificate bundle that the network needs, by verify= of dx.LM(...) or by "
        "SSL_CERT_FILE; where the server asks for the client's certificate, give cert=. "
        "Verification cannot be switched off.",
    ),
    "DX4103": Entry(
        "the connection took too long",
        "No connection, TLS included, came about within the connect timeout (10 s, or timeout= when that is "
        "less); nothing was sent. The host drops packets or is overloaded.",
    ),
    "DX4104": Entry(
        "the server fell silent",
        "The server was silent for longer than the read timeout. The request was sent, so "
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
        "proxy= of dx.LM(...), HTTPS_PROXY or HTTP_PROXY names a proxy that did not let the request through, for "
        "example because it wants other credentials; the model's server got nothing. Add the host to NO_PROXY, or give "
        "proxy='', to go without.",
    ),
    "DX4111": Entry(
        "the server takes nothing",
        "The server accepted the connection and took no further byte of the request for longer than the write timeout "
        "(30 s, or timeout= when that is less), which is seen with large prompts, images and files. A part of the "
        "request was sent, so sent is maybe. The server hangs or is overloaded.",
    ),
    "DX4112": Entry(
        "the proxy cannot be reached",
        "proxy= of dx.LM(...), HTTPS_PROXY or HTTP_PROXY names a proxy that does not answer; nothing was sent. Check "
        "its address; add the host to NO_PROXY, or give proxy='', to go without. Such a call is tried again.",
    ),
    "DX4201": Entry(
        "the model is not known to support this",
        "The request needs something, such as tools, attachments, raw prompts or enforced choices, that the protocol "
        "has no words for or that nothing is known of at this server; leaving it out would change the answer. If the "
        "server can do it, say so: dx.LM(..., capabilities=Capabilities(raw_prompt=True, json_schema=True)).",
    ),
    "DX4202": Entry(
        "401: the key was not accepted",
        "The server knows no such key, or got none. A base_url given in code gets only api_key=, never a key of the "
        "environment, so that a key meant for one provider does not reach another host.",
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
    "DX4209": Entry(
        "the prompt is longer than the model's context",
        "The server refused the request because prompt and max_tokens together exceed the context window. Shorten the "
        "input or the demonstrations, lower max_tokens, or use a model with a larger context. It is not retried.",
    ),
    "DX4210": Entry(
        "the provider's content filter refused",
        "The server refused the prompt by its content policy; the same prompt will be refused again, so it is not "
        "retried. An answer that the filter cut off is a response with stop content_filter instead.",
    ),
    "DX4212": Entry(
        "a batch has too few or too many requests",
        "OpenAI takes 1 to 50,000 requests and 200 MB in one batch, Anthropic 1 to 100,000 and 256 MB. Hand the "
        "requests in as several batches.",
    ),
    "DX4213": Entry(
        "the batch has not ended",
        "The results of a batch can be read once its status is no longer running. A batch may take a day.",
    ),
    "DX4214": Entry(
        "the batch failed as a whole",
        "The provider refused the batch before any of its requests was carried out; the message holds its reasons, "
        "often an invalid request or a limit on what may wait in batches. Correct it and hand the batch in again.",
    ),
    "DX4215": Entry(
        "the batch ended without this request's answer",
        "The batch expired or was cancelled first, or the provider names no outcome for the request. It was not "
        "answered; hand it in again.",
    ),
    "DX4216": Entry(
        "a request for embeddings has too few or too many texts",
        "OpenAI takes 1 to 2,048 texts in one request. `dx.embed` splits longer lists; else ask in several requests.",
    ),
    "DX4230": Entry(
        "the model called a tool in a way that nobody can read",
        "Gemini ended the answer because the model wrote a call of a tool that is no call, or of a tool that does not "
        "exist. It is tried again. When it happens often, simplify the tools' parameters or name the tools in the "
        "instruction.",
    ),
    "DX4231": Entry(
        "a tool's result without its call",
        "Gemini's protocol names the tool in a result, so the assistant's turn that asked for the call, with its "
        "tool_calls, must stand before the tool's turn that answers it. Nothing was sent.",
    ),
    "DX4218": Entry(
        "a function gives no key",
        "api_key= of dx.LM(...) is a function, which is asked for every request. It raised an error, from which this "
        "one was raised, or gave something that is no key. What it said is not told here, for it may hold the key. "
        "Nothing was sent; an error of the function's own is tried again like other failures that may pass.",
    ),
    "DX4217": Entry(
        "the request holds text that cannot be sent",
        "A Python text can hold half of a surrogate pair, for example of a file that was read with "
        "errors='surrogateescape'; such a text has no UTF-8 form and no JSON body can hold it. Nothing was sent. Mend "
        "the input where it is read.",
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
        "dx.LM(..., price=Price(input, output)), or FREE for a server of your own; or cap calls or tokens instead; or "
        "say Budget(..., unpriced='allow') to leave such calls out of the cap.",
    ),
    "DX4504": Entry(
        "a reservation was closed twice",
        "Each reservation of a budget is settled, released or left uncertain exactly once. This is a defect of "
        "dspex or of "
        "an Account that you wrote; please report it with the traceback.",
    ),
    "DX4505": Entry(
        "what a budget does with unpriced calls is refuse or allow",
        "A cap on dollars cannot count a call whose price nobody knows. Budget(usd=..., unpriced='refuse'), the "
        "default, refuses such calls; unpriced='allow' makes them and leaves them out of that cap, so set calls= or "
        "tokens= beside it.",
    ),
    "DX4506": Entry(
        "the account lies outside of the budget that surrounds it",
        "using(budget=...) with an account of its own would pass by the caps that hold outside of the block. Open the "
        "account with parent=, the surrounding account, or enter it outside of the other budget.",
    ),
    "DX4507": Entry(
        "a ledger has no such dimension",
        "Ledger.by names one or several of tenant, program, configuration, module, model and outcome. For what each "
        "single call cost, open a trace.",
    ),
    "DX4601": Entry(
        "the answer does not fit the output schema",
        "The model answered, was shown what is wrong with its answer as often as repairs= of the module says, and no "
        "answer was in the form of the output schema. The message quotes each answer and the rule that it breaks. Make "
        "the instruction clearer, add demonstrations, widen the schema, or use a model that enforces schemas.",
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
    "DX4605": Entry(
        "the model cannot keep answers in the wanted form",
        "answers='schema' needs a model whose server enforces schemas, or choices where the output is a closed choice; "
        "answers='tool' one that calls tools. Nothing was sent. answers='auto' takes the strictest form that the model "
        "can do; of a server of your own, LM(capabilities=...) says what it can.",
    ),
    "DX4606": Entry(
        "the provider's content filter ended the answer",
        "The provider, not the model, ended the answer: the message shows what it let through, which may be its own "
        "words of refusal. It is no answer, is not kept in the cache and not asked for again. Change the input or the "
        "instruction, or ask the provider for another policy.",
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
    "DX4710": Entry(
        "a stream ended without its response",
        "A model object of your own implements stream(), and its generator ended before a last Delta with response= "
        "set. Yield Delta(response=LMResponse(...)) at the end, with the whole text and the usage.",
    ),
    "DX4711": Entry(
        "the model has no batch endpoint",
        "Batches need a provider with a batch API (OpenAI, Azure, Anthropic), of the model and of each of its "
        "fallbacks. Leave batch= out, or choose another model.",
    ),
    "DX4712": Entry(
        "a batch ended without an answer to this request",
        "The provider's batch expired, was cancelled or failed before it came to this request; what it did not answer "
        "is not charged. It was handed in again as often as retries= allows. Asked again with the same folder, only "
        "such requests are handed in once more.",
    ),
    "DX4713": Entry(
        "a batch may have been handed in already",
        "A process ended between handing a batch in and noting its id, or the connection broke then, so nobody knows "
        "whether the provider has it: its requests count as spent, uncertain. They are handed in again where "
        "LM(retry_ambiguous=True) and retries= allow that. Otherwise look at the provider's list of batches; to go "
        "on, allow it or choose another folder.",
    ),
    "DX4715": Entry(
        "an embedding model gave too few or too many vectors",
        "The embed method of an object that was given as lm= returns one vector for each text, in their order.",
    ),
    "DX4716": Entry(
        "a setting of batches is out of range",
        "Batches(folder, ...) takes a folder's path; interval= and quiet= are seconds, at least 0, size= is a number "
        "of requests, at least 1, and tell= is a function of a text.",
    ),
    "DX4730": Entry(
        "a rate limit is not a positive number",
        "Requests and tokens a minute, and the seconds of a burst, are positive and finite. Leave a rate out where "
        "there is none; what the server tells about its limits is kept in any case.",
    ),
    "DX4731": Entry(
        "the circuit breaker is open",
        "Too many of the latest calls to this server failed or were far too slow, so that calls now fail at once, "
        "and nothing is sent. After a pause a few calls go through as probes; when all of them are answered, all "
        "calls go through again. See the errors before this one for what is wrong with the server.",
    ),
    "DX4732": Entry(
        "a permit was released twice",
        "Each call that was admitted ends once, so that no limit is ever exceeded. This is a defect of dspex: "
        "report it with the traceback.",
    ),
    "DX4733": Entry(
        "a limit that admits nothing",
        "The number of calls in flight is at least one, and so are its upper bound and the weight of a tenant. To "
        "stop all calls, end the program or set a budget.",
    ),
    "DX4734": Entry(
        "a setting of the circuit breaker is out of range",
        "The window, the pauses and the seconds of a slow call are positive numbers, shares lie in (0, 1], and calls "
        "and probes are at least one.",
    ),
}
