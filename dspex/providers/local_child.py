"""The process that holds a local model: it loads the file, serves it over HTTP on loopback and ends with its parent.

Run as a script by `local_process.py`, so it imports nothing of dspex. The first line of standard input is its
configuration as JSON; then standard input stays open and empty for as long as the parent lives. The first line of
standard output is the answer: ``{"url": ...}`` or ``{"error": kind, "message": ...}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from typing import Any


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line:
        return
    config: dict[str, Any] = json.loads(line)
    # The library prints wherever it likes; standard output carries nothing but our one line.
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.extend(config["path"])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        library: Any = importlib.import_module("xllamacpp")
    except (ImportError, OSError) as error:
        answer.write(json.dumps({"error": "import", "message": str(error)}) + "\n")
        return
    if "model" not in config:
        answer.write(json.dumps({"version": str(library.__version__)}) + "\n")
        return
    try:
        server: Any = library.Server(parameters(library, config))
    except (RuntimeError, ValueError, OSError) as error:
        answer.write(json.dumps({"error": "load", "message": str(error)}) + "\n")
        return
    answer.write(json.dumps({"url": server.listening_address}) + "\n")
    # A process that the parent forked may hold the other end of standard input, which delays its end of file.
    while os.getppid() == config["parent"]:
        time.sleep(1.0)
    os._exit(0)


def parameters(library: Any, config: dict[str, Any]) -> Any:
    """llama.cpp's parameters. Those that change numbers are repeated in `LocalModel.fingerprint`."""
    wanted = library.CommonParams()
    wanted.model.path = config["model"]
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = 0
    wanted.api_keys = [config["key"]]
    wanted.n_parallel = 1
    wanted.n_ctx = config["context"]
    wanted.n_ubatch = config["ubatch"]
    wanted.cpuparams.n_threads = 1
    wanted.cpuparams_batch.n_threads = config["threads"]
    wanted.n_gpu_layers = 0
    wanted.fit_params = False
    # Flash attention makes a prompt's numbers depend on how much of it was cached; without it they do not.
    wanted.flash_attn_type = library.llama_flash_attn_type(0)
    wanted.cache_prompt = True
    wanted.cache_ram_mib = 0
    wanted.ui = False
    wanted.endpoint_slots = False
    wanted.verbosity = 0
    wanted.n_threads_http = 16
    return wanted


def _end_with_stdin() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    import signal

    # Ctrl-C in a terminal reaches the whole foreground group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
