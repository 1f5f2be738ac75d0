"""What long work says where its output is no terminal."""

import io
import itertools
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TextIO

import pytest
from rich.console import Console

from circuitlapse.api.progress_lines import Lines, watched
from circuitlapse.cli.console import counting, watch
from circuitlapse.organisms.organism import pretrain
from circuitlapse.organisms.recipe import Stage, get_recipe
from circuitlapse.pipeline.job import Progress

# An organism so small that it is made in seconds; its gate lets everything pass.
SMALL = get_recipe("default").model_copy(
    update={
        "stages": (Stage(steps=60, weights={"ioi2": 1.0}),),
        "old_at_least": 0.0,
        "new_at_least": 0.0,
        "new_at_most": 1.0,
        "heads": 2,
        "d_model": 16,
        "layers": 1,
        "gate_prompts": 8,
    }
)


def _pretrain(out: TextIO) -> None:
    """Pretrain with the progress that a run shows, and close the file."""
    with out, watch(Console(file=out)) as listen:
        listen(Progress("planned", total=2))
        listen(Progress("started", "base model"))

        def progress(done, of, text):
            listen(Progress("advanced", "base model", done, of, text))
            time.sleep(0.05)

        pretrain(SMALL, 0, progress=progress)
        listen(Progress("finished", "base model", 1, 2))


@pytest.mark.usefixtures("unchecked")
def test_pretraining_into_a_pipe_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr("circuitlapse.api.progress_lines.EVERY", 1.0)
    started, at, lines = time.monotonic(), [], []
    read, write = os.pipe()
    with ThreadPoolExecutor(1) as pool, os.fdopen(read) as pipe:
        training = pool.submit(_pretrain, os.fdopen(write, "w"))
        for line in pipe:
            at.append(time.monotonic() - started)
            lines.append(line.rstrip("\n"))
        training.result()
    assert not [line for line in lines if "\x1b" in line or "\r" in line]
    assert len(lines) == len(set(lines))
    said = [re.search(r"s  \[0/2\] base model: (\d+) of (\d+), loss \d", line) for line in lines]
    steps = [int(found[1]) for found in said if found]
    assert len(set(steps)) >= 2
    assert steps == sorted(steps)
    assert "1 of 2 jobs are done" in lines[-1]
    # All but the last are a second apart by their own time, and came when they were said.
    stamps = [float(line.split()[0]) for line in lines[:-1]]
    assert all(later - earlier > 0.85 for earlier, later in itertools.pairwise(stamps))
    assert at[-1] - at[0] > 0.5


def test_a_job_without_events_is_still_named(tmp_path):
    out = io.StringIO()
    with Lines(out, every=0.02) as listen:
        time.sleep(0.4)
        listen(Progress("planned", done=3, total=7))
        listen(Progress("started", "verdict"))
        time.sleep(0.1)
        listen(Progress("note", "verdict", text="one thing"))
    lines = out.getvalue().splitlines()
    assert "checking the directory" in lines[0]
    assert any(line.endswith("[3/7] verdict") for line in lines)
    assert lines[-2].endswith("note: one thing")
    assert lines[-1].endswith("3 of 7 jobs are done")


def test_short_work_says_nothing_on_the_way():
    out = io.StringIO()
    with counting(Console(file=out), "pictures") as advance:
        advance(1, 2)
    with watch(Console(file=out)):
        pass
    assert out.getvalue() == ""


def test_a_notebook_is_told_and_a_script_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    with watched(None) as listen:
        assert not isinstance(listen, Lines)
    shell = SimpleNamespace(kernel="kernel")
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with watched(None) as listen:
        assert isinstance(listen, Lines)
    events: list[Progress] = []
    with watched(events.append) as listen:
        listen(Progress("note", text="mine"))
    assert [event.text for event in events] == ["mine"]
