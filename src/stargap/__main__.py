"""``python -m stargap`` is the command line."""

from stargap.cli.main import main

main()
