"""The native-speed core: arrays in, arrays out; no Python objects, no I/O."""
