"""Custom tasks from a file or a data set, and the errors of invalid ones."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import pytest

from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.splits import SPLITS
from circuitlapse.tasks.tokenization import tokenize

GOOD: dict[str, Any] = {
    "prompt": "Then, Mary and John went to the store. John gave a ring to",
    "corrupt": "Then, Mary and John went to the store. Mary gave a ring to",
    "answer": " Mary",
    "distractors": [" John"],
    "positions": {"IO": [6, 10]},
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def varied(n: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Word {i} is", "corrupt": f"Work {i} is", "answer": " a", "distractors": [" b"]}
        | fields
        for i in range(n)
    ]


def test_a_file_is_a_task(tmp_path: Path) -> None:
    task = get_task(write(tmp_path / "mine.jsonl", [{**GOOD, "split": "test"}]))
    assert task.families == {"corrupt": ("corrupt",)}
    assert task.positions == ("IO", "END")
    (item,) = task.items("test", 1)
    pairs = tokenize([item], build_tokenizer(), "corrupt")
    assert build_tokenizer().decode([int(pairs.clean[0, pairs.positions["IO"][0]])]) == " Mary"
    with pytest.raises(CircuitlapseError, match=r"many items \(got 2\). Ask for at most 1"):
        task.items("test", 2)
    with pytest.raises(CircuitlapseError, match="Give its items that `split`"):
        task.items("train", 1)


@pytest.mark.parametrize("name", ["ioi3", "greater_than", "leave3"])
def test_exported_items_are_imported_unchanged(tmp_path: Path, name: str) -> None:
    task = get_task(name)
    items = [item for split in SPLITS for item in task.items(split, 9)]
    rows = [json.loads(item.model_dump_json()) for item in items]
    own = get_task(write(tmp_path / "own.jsonl", rows))
    assert own.families == task.families
    assert set(own.invariance) == set(task.invariance)
    assert set(own.positions) == set(task.positions)
    read = [item for split in SPLITS for item in own.items(split, 9, seed=3)]
    assert sorted(read, key=str) == sorted(items, key=str)
    assert own.items("test", 4, seed=3) == own.items("test", 9, seed=3)[:4]


def test_items_without_a_split_get_one_without_shared_names_or_templates(tmp_path: Path) -> None:
    plain = get_task(write(tmp_path / "plain.jsonl", varied(400)))
    sizes = {split: plain.n_items(split) or 0 for split in SPLITS}
    assert sum(sizes.values()) == 400
    assert sizes["train"] > 250 > sizes["test"] > 30 < sizes["train"]
    people = ("Ann", "Bob", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ida", "Jo")
    rows = [
        {**row, "names": list(trio), "template": f"t{i % 11}"}
        for i, (row, trio) in enumerate(zip(varied(120), combinations(people, 3), strict=True))
    ]
    task = get_task(write(tmp_path / "named.jsonl", rows))
    held = {split: task.items(split, most) for split in SPLITS if (most := task.n_items(split))}
    trained = {frozenset(p) for item in held["train"] for p in combinations(item.names, 2)}
    for split in set(held) - {"train"}:
        assert all(
            any(frozenset(p) not in trained for p in combinations(item.names, 2))
            for item in held[split]
        )
    wordings = {split: {item.template for item in items} for split, items in held.items()}
    for split in (s for s in held if s.endswith("_templates")):
        assert not wordings[split] & wordings["train"]
    assert any(split.endswith("_templates") for split in held)


def test_a_data_set_on_disk_is_a_task(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    rows = [{**row, "corrupt": {"names": row["corrupt"]}} for row in varied(6)]
    parts: Any = {
        "train": datasets.Dataset.from_list(rows[:4]),
        "test": datasets.Dataset.from_list(rows[4:]),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    task = get_task(str(tmp_path / "set"))
    assert task.families == {"names": ("names",)}
    assert (task.n_items("train"), task.n_items("test")) == (4, 2)
    rows[1]["answer"] = ""
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "bad"))
    with pytest.raises(
        CircuitlapseError, match="bad, row 2: 'answer': string should have at least"
    ):
        get_task(str(tmp_path / "bad"))
    with pytest.raises(CircuitlapseError, match="no file or data set someone/thing .*save_to_disk"):
        get_task("someone/thing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": 3}, "line 2: 'answers' is no key of an item .*has prompt, corrupt, answer"),
        ({"answer": None}, "line 2: 'answer': input should be a valid string"),
        ({"prompt": ""}, "line 2: 'prompt': string should have at least 1"),
        ({"distractors": []}, "line 2: 'distractors': list should have at least 1"),
        ({"distractors": [" Mary"]}, "line 2: ' Mary' is given twice"),
        (
            {"corrupt": GOOD["prompt"] + " x"},
            "line 2: the counterfactual 'corrupt' changes nothing",
        ),
        ({"corrupt": {}}, "line 2: there is no corrupt prompt"),
        ({"corrupt": {"../x": "a"}}, "line 2: the counterfactual '../x' must be a word"),
        (
            {"corrupt": {"names": "Other"}},
            r"line 2: its counterfactuals are \['names'\], but those of",
        ),
        ({"positions": {"IO": [6, 999]}}, r"line 2: the position 'IO' is not \[start, end\]"),
        ({"positions": {}}, r"line 2: its positions are \[\], but those of .*line 1 \['IO'\]"),
        ({"split": "dev"}, "line 2: there is no split 'dev'; use train, validation"),
        ({"prompt": GOOD["prompt"] + " "}, "line 2: the prompt ends with a space and the answer"),
        ({"prompt": GOOD["prompt"]}, "line 2: the prompt is that of .*line 1"),
    ],
)
def test_an_invalid_item_is_an_error_with_its_line(
    tmp_path: Path, change: dict, message: str
) -> None:
    row = {**GOOD, "prompt": GOOD["prompt"] + " x", **change}
    with pytest.raises(CircuitlapseError, match=message):
        get_task(write(tmp_path / "mine.jsonl", [GOOD, row]))


def test_a_missing_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        CircuitlapseError, match=r"line 1: the key 'corrupt' is missing \(got 'prom"
    ):
        get_task(write(tmp_path / "a.jsonl", [{"prompt": "a"}]))


LINE = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (LINE + b"\n{prompt: 3}\n", "line 2, column 2: it is not JSON"),
        (LINE + b"\n[1, 2]\n", "line 2: an object with keys is needed"),
        (LINE.decode().encode("utf-16"), "it is UTF-16"),
        ('{"prompt": "é"}'.encode("latin-1"), "line 1: byte 0xe9 is not UTF-8"),
        (bytes(range(256)), "it is binary"),
    ],
)
def test_a_bad_file_gives_one_message_with_the_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(CircuitlapseError, match=f"bad.jsonl.*{message}"):
        get_task(str(path))


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + LINE + b"\n")
    assert get_task(str(tmp_path / "bom.jsonl")).positions == ("IO", "END")


def test_a_line_above_the_limit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as stream:
        stream.write(LINE + b'\n{"prompt": "' + b"a" * 2000)
        stream.seek(1 << 30)  # sparse: one GiB of nothing takes no room
        stream.write(b'"}\n')
    with pytest.raises(CircuitlapseError, match="line 2: it is longer than 1 MiB"):
        get_task(str(path))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CircuitlapseError, match=r"there is no file .*no\.jsonl"):
        get_task(str(tmp_path / "no.jsonl"))
