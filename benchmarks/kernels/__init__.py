"""Kernels beside plain C and NumPy on the same work: `python -m benchmarks.kernels`."""
