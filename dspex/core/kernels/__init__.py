"""One file per family of kernels; each kernel is compiled through `core.jit.kernel`."""
