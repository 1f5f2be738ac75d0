"""One directory per run, in which nothing is ever half-written or silently changed.

An artifact is a file or a directory. It is written under a temporary name and renamed. Then a
small record is written under ``.records/``: the key of what it was made from, the hash of its
bytes, and how long it took. An artifact without a record is as good as absent, so a run killed at
any moment leaves nothing that looks finished.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from circuitlapse.errors import CircuitlapseError

ABANDONED = 86400.0
"""Age in seconds at which a draft in a shared cache counts as left by a killed process."""
DRAFT = r"\.draft-\d+-"
"""Pattern of what a draft's name has before that of the file it becomes."""

_CACHE_VARIABLE = "CIRCUITLAPSE_CACHE"
_RECORDS = ".records"
_CHUNK = 1 << 20


def cache_home(cache_dir: Path | str | None = None) -> Path:
    """Return ``cache_dir``; by default ``CIRCUITLAPSE_CACHE``, else the user's cache directory."""
    default = os.environ.get(_CACHE_VARIABLE) or platformdirs.user_cache_dir("circuitlapse")
    return Path(cache_dir or default).expanduser()


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a directory's file names and bytes."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{content_hash(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def key_of(*parts: object) -> str:
    """Hash of JSON-like parts; equal keys mean: made from the same things."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """What is known of an artifact.

    Attributes:
        made_from: Key of the job that made it: its settings and its inputs.
        sha256: Hash of its bytes.
        size: Bytes in all.
        seconds: How long it took to make.
    """

    made_from: str
    sha256: str
    size: int
    seconds: float


class Store:
    """The artifacts of one run directory."""

    def __init__(self, root: Path | str) -> None:
        """Name the directory; nothing is created yet."""
        self.root = Path(root)

    def _record_path(self, name: str) -> Path:
        return self.root / _RECORDS / f"{name}.json"

    def record(self, name: str) -> Record | None:
        """Return an artifact's record, or None where it has none that can be read."""
        try:
            return Record(**json.loads(self._record_path(name).read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None

    def state(self, name: str, made_from: str, *, whole: bool = False) -> str:
        """Say whether an artifact is ``ready``, ``absent``, ``outdated`` or ``damaged``.

        ``damaged`` means that its bytes are no longer those that were written. Directories hold
        model weights and may be large: only their size is compared unless ``whole`` is asked for.
        """
        record, path = self.record(name), self.root / name
        if record is None or not path.exists():
            return "absent"
        if record.made_from != made_from:
            return "outdated"
        same = _size(path) == record.size
        if same and (whole or not path.is_dir()):
            same = content_hash(path) == record.sha256
        return "ready" if same else "damaged"

    @contextmanager
    def write(self, name: str, made_from: str, since: float | None = None) -> Iterator[Path]:
        """Give a temporary path to write to; on leaving without an error it becomes ``name``.

        The path does not exist yet: write a file there, or make a directory.

        Args:
            name: Where the artifact will be, inside the run directory.
            made_from: Key of the job that makes it.
            since: ``time.monotonic()`` when work on it began, where that was before this call.
        """
        started = time.monotonic() if since is None else since
        with replacing(self.root / name) as draft:
            yield draft
            seconds = round(time.monotonic() - started, 3)
            record = Record(made_from, content_hash(draft), _size(draft), seconds)
            self._record_path(name).unlink(missing_ok=True)
        with replacing(self._record_path(name)) as draft:
            draft.write_text(json.dumps(asdict(record)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the directory, which must be there.

        Raises:
            CircuitlapseError: If another process uses it.
        """
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise CircuitlapseError(
                f"another process is running in {self.root}",
                fix="Wait for it, or name another directory with --out",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def seconds(self) -> dict[str, float]:
        """Return how long each artifact took, by name."""
        root = self.root / _RECORDS
        names = sorted(p.relative_to(root).as_posix()[:-5] for p in root.rglob("*.json"))
        records = {name: self.record(name) for name in names}
        return {name: record.seconds for name, record in records.items() if record}

    def sweep(self, older_than: float = 0.0) -> None:
        """Remove what killed processes left half-written.

        Args:
            older_than: Only what was made at least so many seconds ago. At 0 it is everything,
                which is only for the one who holds the lock.
        """
        with suppress(FileNotFoundError):  # others that have no lock finish theirs meanwhile
            for draft in list(self.root.rglob(".draft-*")):
                if not older_than or time.time() - draft.stat().st_mtime >= older_than:
                    _remove(draft)

    def read(self, name: str) -> bytes:
        """Return a file's bytes, which are those that were written: what is parsed was checked.

        Readers get bytes and no path, since libraries differ in what they take a path for: to
        some, ``s[1]`` is a pattern that finds ``s1``.

        Raises:
            CircuitlapseError: If it is missing or was changed.
        """
        record, path = self._recorded(name), self.root / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise self._changed(name)
        return content

    def path(self, name: str) -> Path:
        """Return the path of an artifact whose bytes are those that were written.

        It is for directories of model weights, and for what a user opens.

        Raises:
            CircuitlapseError: If it is missing or was changed.
        """
        record = self._recorded(name)
        if content_hash(self.root / name) != record.sha256:
            raise self._changed(name)
        return self.root / name

    def _recorded(self, name: str) -> Record:
        record = self.record(name)
        if record is None or not (self.root / name).exists():
            raise CircuitlapseError(
                f"{self.root / name} is missing",
                fix=f"Finish the run: `circuitlapse run {self.root / 'experiment.toml'} "
                f"--out {self.root}`",
            )
        return record

    def _changed(self, name: str) -> CircuitlapseError:
        return CircuitlapseError(
            f"{self.root / name} is not what was written: its hash differs from the recorded one",
            fix="Start the run again to rebuild it, or restore the file",
        )


def metadata(content: bytes) -> dict[str, str]:
    """Return what a safetensors file says of itself; its library reads that from a path only."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Give a temporary path next to ``final``; on leaving without an error it takes its place.

    The path does not exist yet, and keeps the suffix, since some writers choose their format by it.
    What was at ``final`` stays until then, and stays for good where there is an error.

    Raises:
        CircuitlapseError: If a file was written and there is a directory in its place, which may
            hold anything.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = final.with_name(f".draft-{os.getpid()}-{final.name}")  # as DRAFT has it
    _remove(draft)
    try:
        yield draft
        if draft.is_dir():
            _remove(final)
        elif final.is_dir():
            raise CircuitlapseError(f"{final} is a directory", fix="Name a file in it")
        draft.replace(final)
    finally:
        _remove(draft)


def write_texts(*texts: tuple[Path, str]) -> None:
    """Write text files; no regular file is touched unless all can be written whole.

    Links are followed. A device or pipe, such as ``/dev/null``, is written to.

    Raises:
        CircuitlapseError: If two paths are the same file, one is a directory, or one cannot be
            written.
    """
    what = "every output needs a file of its own, not a directory"
    try:
        files = {path.resolve(): text for path, text in texts}
        if len(files) == len(texts) and not any(path.is_dir() for path in files):
            with ExitStack() as drafts:
                for path, text in files.items():
                    regular = path.is_file() or not path.exists()
                    draft = drafts.enter_context(replacing(path)) if regular else path
                    draft.write_text(text, encoding="utf-8")
            return
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError in Python 3.11
        what = f"the output cannot be written: {getattr(error, 'strerror', None) or error}"
    fix = "Use files in directories that you may write to"
    raise CircuitlapseError(what, got=", ".join(str(path) for path, _ in texts), fix=fix)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented for people."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
