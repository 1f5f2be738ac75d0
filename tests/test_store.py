import json
import os
import subprocess
import sys

import pytest

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import Store, content_hash, key_of, replacing


def _write(store: Store, name: str, text: str = "hello", key: str = "k") -> None:
    with store.write(name, key) as path:
        path.write_text(text)


def test_an_artifact_is_ready_once_written(tmp_path):
    store = Store(tmp_path)
    assert store.state("a/b.json", "k") == "absent"
    _write(store, "a/b.json")
    assert store.state("a/b.json", "k") == "ready"
    assert store.read("a/b.json") == b"hello"
    assert list(store.seconds()) == ["a/b.json"]


def test_another_key_makes_it_outdated(tmp_path):
    store = Store(tmp_path)
    _write(store, "a.json")
    assert store.state("a.json", "other") == "outdated"


def test_a_flipped_byte_is_noticed(tmp_path):
    store = Store(tmp_path)
    _write(store, "a.json")
    (tmp_path / "a.json").write_text("hellp")
    assert store.state("a.json", "k") == "damaged"
    with pytest.raises(CircuitlapseError, match=r"a\.json is not what was written: its hash"):
        store.read("a.json")


def test_a_directory_is_checked_whole_when_it_is_read(tmp_path):
    store = Store(tmp_path)
    with store.write("c", "k") as directory:
        directory.mkdir()
        (directory / "weights").write_bytes(b"0123")
    assert store.state("c", "k") == "ready"
    (tmp_path / "c/weights").write_bytes(b"01")
    assert store.state("c", "k") == "damaged"
    (tmp_path / "c/weights").write_bytes(b"0124")
    with pytest.raises(CircuitlapseError, match="not what was written"):
        store.path("c")


def test_a_file_takes_no_directorys_place(tmp_path):
    (tmp_path / "a.json/inside").mkdir(parents=True)
    with (
        pytest.raises(CircuitlapseError, match=r"a\.json is a directory\. Name a file in it"),
        replacing(tmp_path / "a.json") as path,
    ):
        path.write_text("hello")
    assert [found.name for found in tmp_path.rglob("*")] == ["a.json", "inside"]


def test_an_error_while_writing_leaves_the_old_artifact(tmp_path):
    store = Store(tmp_path)
    _write(store, "a.json")
    with pytest.raises(ValueError, match="boom"), store.write("a.json", "new") as path:
        path.write_text("half")
        raise ValueError("boom")
    assert store.read("a.json") == b"hello"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".records", "a.json"]


def test_without_its_record_an_artifact_is_absent(tmp_path):
    store = Store(tmp_path)
    _write(store, "a.json")
    (tmp_path / ".records/a.json.json").unlink()
    assert store.state("a.json", "k") == "absent"
    with pytest.raises(CircuitlapseError, match="is missing.*circuitlapse run"):
        store.read("a.json")


def test_a_record_cut_off_counts_as_none(tmp_path):
    store = Store(tmp_path)
    _write(store, "a.json")
    (tmp_path / ".records/a.json.json").write_text('{"made_from": "k"')
    assert store.state("a.json", "k") == "absent"


def test_a_killed_writer_leaves_only_a_draft_that_is_swept(tmp_path):
    script = (
        "import os, sys\nfrom circuitlapse.records.store import Store\n"
        "with Store(sys.argv[1]).write('d/a.json', 'k') as path:\n"
        "    path.write_text('half')\n    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 9
    store = Store(tmp_path)
    assert store.state("d/a.json", "k") == "absent"
    assert any(name.startswith(".draft-") for name in os.listdir(tmp_path / "d"))
    store.sweep()
    assert os.listdir(tmp_path / "d") == []


def test_directory_hash_sees_names_and_bytes(tmp_path):
    for name, file, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    hashes = [content_hash(tmp_path / name) for name in "abcd"]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_keys_depend_on_values_not_on_order():
    assert key_of({"a": 1, "b": 2}) == key_of(json.loads('{"b": 2, "a": 1}'))
    assert key_of({"a": 1}) != key_of({"a": 2})
