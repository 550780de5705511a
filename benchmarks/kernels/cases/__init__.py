"""One file for each family of kernels; each registers its works by `@work`."""
