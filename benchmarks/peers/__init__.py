"""The same work on dspex and on a peer, measured in one run."""
