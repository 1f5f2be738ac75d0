"""The command line: thin commands over the API, and the only place that prints."""

from circuitlapse.cli.app import main

__all__ = ["main"]
