"""``python -m circuitlapse`` is the command line."""

from circuitlapse.cli import main

main()
