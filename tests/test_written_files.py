"""Import of a file of items: which files are read, which items are kept, and the error messages."""

import gzip
import json
import os
from pathlib import Path

import pytest

from circuitlapse.cli.tasks import tasks
from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.records.items import Item
from circuitlapse.tasks.lines import read_lines
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.written.sort import sort_items


def _line(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


_MARY = "Then, Mary, John and Tom went to the park. John and Tom gave a ring to"
_ITEMS = [
    _line(_MARY, "Mary"),
    _line("Then, Paul, John and Anna went to the park. Paul and Anna gave a ring to", "John"),
    _line("Then, Mary, John and Tom went to the park. John gave a ring to", "Mary"),
    _line(f" {_MARY} ", "Mary."),
    _line(
        "Then, Paul, Anna and Tom went to the park. Paul gave it to Anna and Tom. Paul and Tom "
        "gave a ring to",
        "Anna",
    ),
    _line(_MARY, "John"),
]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "given.json"
    path.write_text(
        json.dumps(
            [dict(zip(("question", "completion"), item.values(), strict=True)) for item in _ITEMS]
        )
    )
    return path


def _import(*arguments: object) -> None:
    tasks(["import", *map(str, arguments)], standalone_mode=False)


def test_a_file_is_sorted_and_the_command_prints_the_counts(file, tmp_path, capsys):
    out, rejects = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    _import(file, "--task", "ioi3", "--out", out, "--rejects", rejects)
    said = capsys.readouterr().out
    assert "6 items: 3 good, 3 rejected" in said
    for row in ("duplicate", "subjects", "middle listed"):
        assert row in said
    items = [Item.model_validate_json(line) for line in out.read_text().splitlines()]
    assert [item.answer for item in items] == [" Mary", " John", " Anna"]
    refused = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(one["place"], one["reason"]) for one in refused] == [
        ("item 3", "subjects"),
        ("item 4", "duplicate"),
        ("item 6", "answer"),
    ]
    assert refused[0]["item"] == {"question": _ITEMS[2]["prompt"], "completion": "Mary"}
    assert refused[0]["detail"] == "of Mary, John and Tom, the last names are only John"

    _import(out, "--out", tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()
    assert (tmp_path / "again.rejects.jsonl").read_bytes() == b""


def test_good_items_can_be_tokenised_and_unknown_names_are_rejected(tmp_path):
    tokenizer = build_tokenizer()
    path = tmp_path / "given.jsonl"
    odd = _line(_MARY.replace("Mary", "Xochitl"), "Xochitl")
    path.write_text("\n".join(json.dumps(item) for item in [_ITEMS[0], _ITEMS[1], odd]))
    found = sort_items(path, "ioi3", tokenizer)
    assert [(one.reason, one.place) for one in found.rejects] == [("tokens", "line 3")]
    assert "the tokenizer does not know" in found.rejects[0].detail
    for counterfactual in found.items[0].corrupt:
        pairs = tokenize(found.items, tokenizer, counterfactual)
        assert set(pairs.positions) == {"IO", "S1", "S2", "S1_again", "S2_again", "END"}
        assert bool((pairs.clean != pairs.corrupt).any(dim=1).all())


def test_a_file_without_good_items_gives_rejects_only(tmp_path, capsys):
    path, out = tmp_path / "given.jsonl", tmp_path / "good.jsonl"
    path.write_text(json.dumps(_ITEMS[2]) + "\n")
    _import(path, "--out", out)
    assert "1 items: 0 good, 1 rejected" in capsys.readouterr().out
    assert out.read_bytes() == b""
    assert json.loads((tmp_path / "good.rejects.jsonl").read_text())["place"] == "line 1"


_GOOD = json.dumps(_ITEMS[0]).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"[]", "is empty"),
        (b"prompt,completion\n", "line 1, column 1: it is not JSON"),
        (_GOOD + b"\n{'prompt': 1}\n", "line 2, column 2: it is not JSON"),
        (b"[\n" + _GOOD + b",\n" + _GOOD[:-5], "line 3, column .*: it is not JSON"),
        (_GOOD + b"\n\n[1, 2]\n", r"line 3: an object with keys is needed, not \[1, 2\]"),
        (b'["a"]', 'item 1: an object with keys is needed, not "a"'),
        (_GOOD + b'\n{"text": "x", "label": "y"}', "line 2: a text .* 'prompt' or .*text.*label"),
        (b'{"prompt": "x"}', "line 1: .* one key, 'completion' or 'answer'"),
        (b'{"prompt": "x", "question": "x", "answer": "y"}', "one key, 'prompt' or 'question'"),
        (b'{"prompt": "x", "completion": ["y"]}', "line 1: a text is needed .*'completion'"),
        (_GOOD + b"\n" + b" " * (1 << 20) + b"{}", "line 2: it is longer than 1 MiB"),
        (_GOOD + b'\n{"prompt": "Jos\xe9"}', "line 2: byte 0xe9 is not UTF-8"),
        (b"[\n" + _GOOD + b',\n{"prompt": "Jos\xe9"}]', "line 3: byte 0xe9 is not UTF-8"),
        (json.dumps(_ITEMS).encode("utf-16"), "it is UTF-16"),
        (gzip.compress(_GOOD), "it is gzip"),
        (b"\x7fELF\0\0\1", "byte 5: it is binary"),
        (b'{"prompt": "\\ud800", "completion": "x"}', "line 1: .* half a surrogate pair"),
        (b'{"a": ' + b"[" * 100_000, "line 1: it is nested too deeply|line 1, column"),
    ],
)
def test_a_bad_file_gives_one_message_with_the_line(tmp_path, content, said):
    path, out = tmp_path / "given", tmp_path / "good.jsonl"
    path.write_bytes(content)
    with pytest.raises(CircuitlapseError, match=said) as error:
        _import(path, "--out", out)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 600
    assert [one.name for one in tmp_path.iterdir()] == ["given"]


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([_GOOD, b"", _GOOD]) + b"\r\n")
    assert [line.place for line in read_lines(path)] == ["line 1", "line 3"]
    assert len(sort_items(path).items) == 1


def test_missing_files_and_clashing_outputs_are_errors(file, tmp_path):
    with pytest.raises(CircuitlapseError, match="cannot be read: No such file"):
        _import(tmp_path / "none", "--out", tmp_path / "good.jsonl")
    with pytest.raises(CircuitlapseError, match="cannot be read: Is a directory"):
        _import(tmp_path, "--out", tmp_path / "good.jsonl")
    before = file.read_bytes()
    with pytest.raises(CircuitlapseError, match="output would overwrite the input"):
        _import(file, "--out", file)
    with pytest.raises(CircuitlapseError, match="a file of its own, not a directory"):
        _import(file, "--out", tmp_path / "x", "--rejects", tmp_path / "x")
    with pytest.raises(CircuitlapseError, match="cannot be written: File exists"):
        _import(file, "--out", file / "good.jsonl")
    with pytest.raises(CircuitlapseError, match="tokenizer could not be loaded"):
        _import(file, "--out", tmp_path / "x", "--tokenizer", tmp_path / "none")
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["given.json"]


def test_a_failed_write_leaves_both_files_unchanged(file, tmp_path):
    out, rejects = tmp_path / "good.jsonl", tmp_path / "bad"
    out.write_text("old")
    rejects.mkdir()
    (rejects / "kept").write_text("old")
    with pytest.raises(CircuitlapseError, match="not a directory"):
        sort_items(file).save(out, rejects)
    assert out.read_text() == (rejects / "kept").read_text() == "old"


def test_a_repeated_answer_counts_once_and_the_command_says_so(tmp_path, capsys):
    path, out = tmp_path / "given.json", tmp_path / "good.jsonl"
    path.write_text(
        json.dumps([_line(one["prompt"], f" {one['completion']}" * 20) for one in _ITEMS])
    )
    _import(path, "--out", out)
    said = capsys.readouterr().out
    assert "6 answers repeat one name 20 times: read as the name once" in said
    assert "6 items: 3 good, 3 rejected" in said
    items = [Item.model_validate_json(line) for line in out.read_text().splitlines()]
    assert [item.answer for item in items] == [" Mary", " John", " Anna"]
    assert len(get_task(str(out)).items("test", 1)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("listed", ["Mary", "Tom", "John"]),
        ("listed", "Mary"),
        ("acting", ["Tom"]),
        ("acting", [["x"]]),
        ("recipient", "Tom"),
        ("listed", None),
        ("acting", None),
    ],
)
def test_fields_are_checked_against_the_text(tmp_path, field, value):
    path = tmp_path / "given.jsonl"
    fields = {"listed": ["Mary", "John", "Tom"], "acting": ["Tom", "John"], "recipient": "Mary"}
    item = _line(_MARY, "Mary") | fields
    path.write_text(json.dumps(item))
    assert len(sort_items(path).items) == 1
    path.write_text(json.dumps(item | {field: value}))
    assert [one.reason for one in sort_items(path).rejects] == ["fields"]


def test_links_are_followed_and_devices_and_pipes_are_written_to(file, tmp_path):
    target, link, pipe = tmp_path / "target", tmp_path / "link.jsonl", tmp_path / "pipe"
    link.symlink_to(target)
    _import(file, "--out", link, "--rejects", "/dev/null")
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == 3
    assert Path("/dev/null").is_char_device()
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    _import(file, "--out", link, "--rejects", pipe)
    assert pipe.is_fifo()
    assert os.read(reading, 1 << 16).count(b"\n") == 3
    os.close(reading)
