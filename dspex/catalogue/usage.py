"""Codes DX8xxx: the command line and settings."""

from __future__ import annotations

from dspex.catalogue.entry import Entry

USAGE: dict[str, Entry] = {
    "DX8001": Entry(
        "the command line is wrong",
        "A command, an option or an argument is unknown, missing or out of range. `dspex --help` lists the "
        "commands and `dspex COMMAND --help` its options.",
    ),
    "DX8101": Entry(
        "a model is named provider/model",
        "The part before the first slash picks the wire protocol, the rest is the model's own name. "
        'Write dx.LM("openai/gpt-4.1-mini"), dx.LM("openai/any-name", base_url=...) or '
        'dx.LM("local/smollm2").',
    ),
    "DX8102": Entry(
        "unknown cache mode",
        "cache= is one of off, on (read and write), read, write and refresh (write only, replacing what is stored).",
    ),
    "DX8103": Entry(
        "concurrency is at least 1",
        "concurrency= is the number of calls that may be in flight to this model at once. Give 1 to run calls in turn, "
        'or "auto" to let dspex find how many the server takes.',
    ),
    "DX8104": Entry(
        "timeout is a positive number of seconds",
        "timeout= bounds one attempt of one call. To wait for very long, give a large number rather than 0 or "
        "infinity.",
    ),
    "DX8105": Entry(
        "retries is at least 0",
        "retries= counts the attempts after the first one, for failures that may pass. 0 means a single attempt.",
    ),
    "DX8106": Entry(
        "lm= does not name a model",
        "lm= is a name such as local/smollm2, a dx.LM(...), or an object that implements dspex.lm.model.LanguageModel "
        "(name, fingerprint, capabilities, price, complete, aclose). Something else was given.",
    ),
    "DX8107": Entry(
        "unknown on_error mode",
        "batch(on_error=...) is 'raise', which stops at the first error, or 'return', which puts each error in the "
        "place of "
        "its output and goes on.",
    ),
    "DX8108": Entry(
        "a rate is not a positive number",
        "rpm= and tpm= are the requests and the tokens a minute that the provider allows for this key and model. Leave "
        "them out where the provider tells its limits in its responses, or has none.",
    ),
    "DX8109": Entry(
        "endpoints are not what they should be",
        "endpoints= is a tuple of Endpoint(base_url, api_key, weight), each a server or a key for the same model; a "
        "weight is a positive number. An endpoint with a base_url of its own needs its own api_key.",
    ),
    "DX8110": Entry(
        "unknown provider",
        "The part before the first slash of a model's name picks the wire protocol; this one does not exist. "
        'Any OpenAI-compatible server is dx.LM("openai/NAME", base_url=...).',
    ),
    "DX8111": Entry(
        "no API key",
        "The provider's server needs a key. Set the environment variable that the message names or give api_key=; a "
        'base_url= in code gets api_key= alone. The local model, dx.LM("local/smollm2"), needs none.',
    ),
    "DX8112": Entry(
        "unsupported proxy",
        "proxy= of dx.LM(...) or the environment names a SOCKS proxy or something unreadable, and only http and https "
        "proxies are supported. Name an http proxy, add the host to NO_PROXY, or give proxy='' for none. Loopback "
        "addresses never use a proxy of the environment.",
    ),
    "DX8113": Entry(
        "malformed API key",
        "The key holds characters that an HTTP header cannot carry, such as a line end from a file. The key "
        "itself is never printed.",
    ),
    "DX8114": Entry(
        "malformed base_url",
        "base_url is the root of an HTTP API, such as http://127.0.0.1:9000/v1: http or https, a host, and no "
        "query, fragment, user name or password, because it is printed and stored: a key is given as api_key=.",
    ),
    "DX8115": Entry(
        "replay() was called wrongly",
        'replay(path) answers from a recording; replay(path, lm, mode="record") asks lm and records. A model '
        'goes with mode="record" only.',
    ),
    "DX8116": Entry(
        "the recording cannot be used",
        "The file does not exist, is no recording of this version, is damaged, or was recorded from another "
        "model. Record it again or name another file.",
    ),
    "DX8117": Entry(
        "the keyring has no key",
        "api_key='keyring:SERVICE/USER' takes the key from the system's keyring through the package keyring: install "
        "it, unlock the keyring, and store the key with `keyring set SERVICE USER`.",
    ),
    "DX8118": Entry(
        "api_key= is no key",
        "api_key= is the key as a text, keyring:SERVICE/USER, or a function without arguments that returns the key. "
        "Something else was given or returned; it is not printed.",
    ),
    "DX8130": Entry(
        "no AWS region is known",
        "Bedrock is served by region. It is taken from AWS_REGION, AWS_DEFAULT_REGION or the profile's region in "
        "~/.aws/config, in this order. Set one of them, or give base_url= of the region's server, "
        "https://bedrock-runtime.REGION.amazonaws.com.",
    ),
    "DX8131": Entry(
        "no AWS credentials were found",
        "Bedrock takes an API key (api_key= or AWS_BEARER_TOKEN_BEDROCK) or AWS credentials, of AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY or from the profile AWS_PROFILE in ~/.aws/credentials and ~/.aws/config. A profile that "
        "signs in by SSO, a role or a process is not followed: `aws configure export-credentials --format env` prints "
        "credentials for the environment, and api_key= may be a function that returns "
        "ACCESS_KEY_ID:SECRET_ACCESS_KEY:SESSION_TOKEN.",
    ),
    "DX8132": Entry(
        "AWS's config file cannot be read",
        "~/.aws/config or ~/.aws/credentials, or what AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE names, is "
        "not readable or not in AWS's format. Its text is not shown, as it holds secrets.",
    ),
    "DX8133": Entry(
        "AWS credentials in api_key= are incomplete",
        "With a colon in it, api_key= of Bedrock is ACCESS_KEY_ID:SECRET_ACCESS_KEY, and :SESSION_TOKEN behind it for "
        "temporary ones. An API key of Bedrock has no colon.",
    ),
    "DX8135": Entry(
        "the file of prices is not sound",
        "The setting prices names a TOML file with a table for each model, named MODEL or HOST/MODEL: input and output "
        "in dollars per million tokens; if wanted cached, written, and above, a list of tables with tokens and the "
        "prices of prompts that are longer. The file is missing, is no TOML, or holds something else.",
    ),
    "DX8136": Entry(
        "a price that cannot be",
        "A price is a finite number of dollars per million tokens and at least 0, and above= gives prices for "
        "ascending numbers of tokens. A model that costs nothing has the price FREE.",
    ),
    "DX8119": Entry(
        "malformed api-version",
        "Azure names the version of its API by a date, such as 2024-10-21 or 2025-04-01-preview, in "
        "OPENAI_API_VERSION or in extra={'api-version': ...}. An address that ends in /openai/v1 needs none.",
    ),
    "DX8150": Entry(
        "fallback is not a tuple of models",
        "fallback= is a tuple of model names, LM(...) or model objects, which are asked in turn when a call has failed "
        'for good. For one model write fallback=("openai/gpt-4.1-mini",).',
    ),
    "DX8151": Entry(
        "a hedge's setting is out of range",
        "hedge= is True, False or Hedge(quantile, ratio), both of them between 0 and 1. quantile says from which part "
        "of the latest calls a call counts as late, ratio how many of all calls may be sent a second time.",
    ),
    "DX8152": Entry(
        "further fields of a request are not JSON",
        "extra= of dx.LM(...) is joined into the body of every request and is part of a call's identity, so it is a "
        "mapping of texts to what JSON can hold: texts, finite numbers, true, false, None, and lists and mappings of "
        "these. A value of another type stands at the place that is named.",
    ),
    "DX8153": Entry(
        "what is to be embedded are no texts",
        "dx.embed takes a list or another sequence of texts; a single text goes into a list of one.",
    ),
    "DX8154": Entry(
        "an embedding model has a fallback",
        "Vectors of two models lie in different spaces and must not be mixed, so fallback= is refused for embeddings. "
        "Further servers or keys for the same model are endpoints=.",
    ),
    "DX8155": Entry(
        "a setting of a model is of the wrong type",
        "dx.LM(...), dx.Endpoint(...) or dx.Hedge(...) was given a text for a number, None for a switch or the like. "
        "The message names the setting and what it takes; the value is not printed, for it may hold a password.",
    ),
    "DX8156": Entry(
        "a priority or tenant is of the wrong type",
        "dx.using(priority=..., tenant=...) takes a whole number and a text. Calls that wait for a model are sorted by "
        "both, together with the calls of all other programs of the process.",
    ),
    "DX8140": Entry(
        "not a fault of the mock server",
        "Fault(...) and --faults take a kind and conditions. The kind is unknown, an attribute does not exist, or a "
        "value has the wrong type. `dspex.testing.Fault` lists them; --faults is a JSON list of objects with the same "
        "names.",
    ),
    "DX8141": Entry(
        "a setting of the mock server is out of range",
        "latency and pace are seconds and at least 0, capacity is at least 1, queue at least 0, overload an error "
        "status. While the server runs, only latency, pace, faults, capacity, queue and overload may change.",
    ),
    "DX8142": Entry(
        "the mock server cannot start",
        "The port is taken, or a file (the ledger, the certificate) cannot be opened. Without --port the system picks "
        "a free one.",
    ),
    "DX8143": Entry(
        "the mock server does not know what to answer",
        "--answer names a function of one request, module:function or path.py:function. --fields is a JSON object "
        "that gives each field a list of values to choose from.",
    ),
    "DX8160": Entry(
        "certificates that cannot be used",
        "verify= of dx.LM(...), or SSL_CERT_FILE, names the file or folder of the certificates to trust, and cert= the "
        "client's own certificate and key, unencrypted, all in PEM form. A file is missing, unreadable or of another "
        "kind, or the server is reached over http://, which has none. verify=False is refused: it would send the key "
        "to whoever answers. To reach a server whose certificate nobody signed, name that certificate.",
    ),
    "DX8161": Entry(
        "settings of a connection beside a transport",
        "A transport of httpx brings its own certificates and its own proxy. Set them there, and leave verify=, cert= "
        "and proxy= of dx.LM(...) out.",
    ),
    "DX8162": Entry(
        "settings of a server that a model does not have",
        "local/NAME runs on this machine and replay/FILE reads a recording, so base_url=, verify=, cert= and proxy= of "
        "dx.LM(...) would go unused, and calls would not go where they say. A server is named by its protocol, such as "
        'dx.LM("openai/NAME", base_url=...).',
    ),
    "DX8201": Entry(
        "pyproject.toml cannot be read",
        "Settings come from DSPEX_* environment variables and from [tool.dspex] in the nearest pyproject.toml "
        "upward from "
        "the working directory. That file is not valid TOML or cannot be opened; correct it at the line that is named.",
    ),
    "DX8202": Entry(
        "no directory can be written",
        "dspex keeps its event log and caches in a data and a cache directory; the usual ones, DSPEX_HOME and the "
        "project's .dspex were tried, and none could be written. Set DSPEX_HOME to a directory that you may write.",
    ),
    "DX8203": Entry(
        "a setting in [tool.dspex] is not a plain value",
        "Settings are texts, numbers or true/false. A list or a table stands where one of these is expected; "
        'write a plain value, for example lm = "local/smollm2".',
    ),
    "DX8204": Entry(
        "a size is a positive whole number of bytes",
        "Size limits such as DSPEX_LOG_BYTES and DSPEX_CACHE_BYTES are plain numbers of bytes, for example 1073741824.",
    ),
    "DX8211": Entry(
        "unknown content mode",
        "content= and DSPEX_CONTENT say what stores keep of prompts and answers: full, hash (their SHA-256) or off.",
    ),
    "DX8221": Entry(
        "not a target",
        "What a command works on is written module:name, path/to/file.py:name or file.dspex. The name is a dx.Program "
        "class or instance, or a function for --metric.",
    ),
    "DX8222": Entry(
        "there is no such module or file",
        "Modules are found in the current folder and among what is installed in this environment. Go to the folder "
        "that holds the file, or give the file's path: path/to/file.py:name.",
    ),
    "DX8223": Entry(
        "the module has no such name",
        "The module was imported, and nothing in it has the name behind the colon. The message names what is similar.",
    ),
    "DX8224": Entry(
        "the target is no program",
        "The name stands for something else, such as a schema or a module of a program. Name a dx.Program class that "
        "can be made without arguments, an instance, or a function under @dx.program.",
    ),
    "DX8225": Entry(
        "the metric cannot be called",
        "A metric is a function of (got, want), or one made with @dx.metric.",
    ),
    "DX8226": Entry(
        "the file cannot be imported under its name",
        "path/to/file.py:name imports the file as the module `file`, so that artifacts and resumed studies find it "
        "again. Its name is no Python name, or another module has it. Rename the file.",
    ),
    "DX8301": Entry(
        "the input is a JSON object",
        "A program whose input has several fields takes a JSON object with those fields. With one text field, "
        "plain text will do.",
    ),
    "DX8302": Entry(
        "the input does not fit the schema",
        "The message names the first field that is wrong and pydantic's reason. `dspex explain TARGET` shows the "
        "program's input schema.",
    ),
    "DX8303": Entry(
        "the configuration file is not a JSON object",
        "--config takes a file with one JSON object: Variable names and their values, as `dspex explain "
        "TARGET --json` prints them.",
    ),
    "DX8304": Entry(
        "not a project name",
        "A project's name becomes a folder: letters, digits, - and _, beginning with a letter.",
    ),
    "DX8305": Entry(
        "the folder exists already",
        "`dspex new` writes into a new folder only, so that nothing is overwritten. Choose another name or "
        "remove the folder.",
    ),
    "DX8306": Entry(
        "a study needs a budget",
        "Give at least one of --budget-calls, --budget-usd, --budget-tokens and --budget-wall. A study "
        "without a cap would not end by itself.",
    ),
    "DX8307": Entry(
        "the demo's files are missing",
        "The demo's program and tickets come with dspex, in a checkout under examples/support_tickets. Their "
        "absence means a damaged installation.",
    ),
    "DX8308": Entry(
        "there is no such error code",
        "Codes are DX and four digits, as they stand at the beginning of every message of dspex. Copy the code from "
        "the message; a newer dspex may know codes that this one does not.",
    ),
    "DX8309": Entry(
        "a result cannot be written",
        "Where results go is looked at before anything is spent on them: the folder has to exist and to be writable. "
        "Make the folder, or name another file.",
    ),
    "DX8312": Entry(
        "an option for artifacts is given without one",
        "--sign signs the artifact that is written with -o, and --key verifies the artifact that is run. Name the "
        "artifact, or leave the option out.",
    ),
    "DX8313": Entry(
        "a module cannot be exported as a chat completion",
        "The module scores its choices by log-probability, which chat completions have no request for. Bind its "
        "scoring to generate first, or export as prompt or json.",
    ),
    "DX8330": Entry(
        "there is no such pass",
        "--after takes the name of a pass: read, inline, types, fold, dead, merge, schedule, layout, order, estimate "
        "or lower. The message lists them.",
    ),
    "DX8331": Entry(
        "an artifact holds no earlier stages",
        "An artifact holds the graph as it is after every pass. What it was before is read from the program's source: "
        "name the program, module:name, or let the artifact import it with --import.",
    ),
    "DX8332": Entry(
        "there is nothing to check under a path",
        "dspex check takes Python files, folders, names of modules and artifacts. The path does not exist or is "
        "something else.",
    ),
    "DX8901": Entry(
        "an unexpected error",
        "This is a defect of dspex or of a library below it, or code of yours that raised outside of a "
        "program or metric. The traceback on stderr says where. Please report it with the traceback and "
        "`dspex doctor --json`.",
    ),
}
