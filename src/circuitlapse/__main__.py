"""``python -m circuitlapse`` is the command line."""

from circuitlapse.cli.app import main

main()
