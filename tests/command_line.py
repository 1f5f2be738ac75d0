"""The command line as the shell calls it, without a new process that would import torch again."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from circuitlapse.cli.app import main


def command(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Return the exit status of ``circuitlapse ARGUMENTS`` and what it printed."""
    line = ["circuitlapse", *map(str, arguments)]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        patch.object(sys, "argv", line),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return subprocess.CompletedProcess(line, status, out.getvalue(), err.getvalue())
