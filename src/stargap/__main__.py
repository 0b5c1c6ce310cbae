"""``python -m stargap`` is the command line."""

from stargap.cli import main

main()
