"""How good the optimizers' recommendations are, beside peers, on problems that others made."""
