"""Kernels as shared libraries: loaded in milliseconds, without Numba. Docs: docs/adr/0009-native-kernels.md.

stamp     what a library depends on: sources, versions, processor
library   the file, when it is accepted, and calling what it holds
emit      from Numba's compiled kernels to a library
`python -m dspex.core.native` builds the libraries that a release ships.
"""
