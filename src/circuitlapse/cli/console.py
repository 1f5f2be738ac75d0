"""The console that results are printed on."""

from rich.console import Console

_PLAIN_WIDTH = 120  # of tables in files and pipes


def console_of() -> Console:
    """Return standard output's console, with a fixed width where that is no terminal.

    No text is markup, in which a directory ``s[red]`` would lose its brackets.
    """
    console = Console(markup=False)
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH, markup=False)
