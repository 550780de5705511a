"""What makes a release: the libraries of compiled kernels, and the wheels."""
