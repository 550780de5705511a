"""`python -m dspex`: the command line."""

from dspex.cli.main import main

main()
