"""Data sets, splits, metrics, the evaluation of one example, and the statistics of many."""
