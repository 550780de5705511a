"""The same calls over HTTP on dspex, on other clients and on bare sockets."""
