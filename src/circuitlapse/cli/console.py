"""The console that results are printed on."""

from rich.console import Console

_PLAIN_WIDTH = 120  # of tables in files and pipes


def console() -> Console:
    """Return the console of standard output, wide enough for tables where it is no terminal."""
    on_screen = Console()
    return on_screen if on_screen.is_terminal else Console(width=_PLAIN_WIDTH)
