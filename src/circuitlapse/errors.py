"""Errors for users: what is wrong, what was given, and how to fix it."""


class CircuitlapseError(Exception):
    """A mistake in the input or its use. The command line prints its text and exits with status 2.

    Args:
        what: What is wrong, in one clause.
        got: The value given; left out when ``what`` already names it.
        fix: What the reader can do about it.
    """

    def __init__(self, what: str, *, got: object = None, fix: str = "") -> None:
        """Join the parts into one message."""
        parts = [what.rstrip(".")]
        if got is not None:
            parts[0] += f" (got {got!r})" if isinstance(got, str) else f" (got {got})"
        if fix:
            parts.append(fix.rstrip("."))
        super().__init__(". ".join(parts).replace("\n. ", "\n") + ".")
