"""The program graph: nodes, types, canonical text, parser and verifier."""
