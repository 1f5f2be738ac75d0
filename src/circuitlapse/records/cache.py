"""The user's cache of trained models, which all runs share."""

import os
from pathlib import Path

import platformdirs

ABANDONED = 86400.0
"""Age in seconds at which a draft in the cache counts as left by a killed process."""
_VARIABLE = "CIRCUITLAPSE_CACHE"


def cache_home(cache_dir: Path | str | None = None) -> Path:
    """Return ``cache_dir``; by default ``CIRCUITLAPSE_CACHE``, else the user's cache directory."""
    default = os.environ.get(_VARIABLE) or platformdirs.user_cache_dir("circuitlapse")
    return Path(cache_dir or default).expanduser()
