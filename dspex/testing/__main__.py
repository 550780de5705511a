"""``python -m dspex.testing``: the mock server as a process of its own."""

from __future__ import annotations

from dspex.testing.mock_server import main

main()
