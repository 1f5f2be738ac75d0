"""The report page, built from a made-up run: what it holds, refuses, and never lets happen."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import polars as pl
import pytest

from circuitlapse.analyses.registry import SCHEMAS
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.calibration import released
from circuitlapse.records.store import Store
from circuitlapse.report.pages.page import build_report
from circuitlapse.report.series.grid import number, typeset
from circuitlapse.report.series.payload import payload
from circuitlapse.report.series.run_records import read_run
from report_synthetic import HEADS, LAYERS, put, put_table, write_run

HOSTILE = """</script><script>alert(1)</script><img src="http://x.example/a.png" onerror='x'>&amp; Zoë 漢 \u2028"""  # noqa: E501


class _Page(HTMLParser):
    """Tags with their attributes, the text of each element kind, and the data block."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.data = ""
        self._raw: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = None
        if tag in self.inline:
            self._raw = "data" if ("type", "application/gzip") in attrs else tag

    def handle_endtag(self, tag: str) -> None:
        self._raw = None

    def handle_data(self, data: str) -> None:
        if self._raw == "data":
            self.data += gzip.decompress(base64.b64decode(data)).decode()
        elif self._raw:
            self.inline[self._raw].append(data)
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "run", steps=32)


@pytest.fixture(scope="module")
def page(run: Path) -> Iterator[_Page]:
    return _Page(build_report(run).read_text(encoding="utf-8"))  # pyright: ignore[reportReturnType]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", steps=8)


def test_a_run_becomes_one_page_and_the_same_bytes_again(run: Path):
    first = build_report(run)
    content = first.read_bytes()
    assert first == run / "report.html"
    assert build_report(run).read_bytes() == content
    assert not list(run.glob(".draft*"))


def test_the_page_is_recorded_with_the_job_that_made_it(broken: Path):
    build_report(broken, made_from="a job")
    assert Store(broken).state("report.html", "a job") == "ready"
    build_report(broken)
    assert Store(broken).state("report.html", "a job") == "ready"


def test_the_page_says_the_verdict_and_its_reason_without_scripts(page: _Page):
    text = " ".join(" ".join(page.text).split())
    assert "Undetermined. The evidence does not decide how" in text
    assert "Scope: this run" in text
    assert "Was it there? Not known: it was not measured." in text
    assert "The old-task heads (dependence 0.83 [0.81, 0.85])." in text
    assert "The nearest mark: same_directions low is 0.47, 0.03 from 0.50." in text
    assert "The rule: its errors are not known yet." in text
    assert "The base is the model organism “default” (pretraining seed 0)" in text
    for term in ("holds", "Faithfulness", "Hanna et al. 2024", "torch 2.13.0", "repurposed"):
        assert term in text


def test_the_page_counts_the_labels_of_ground_truth_models(page: _Page):
    text = " ".join(" ".join(page.text).split())
    found = released()
    assert "How often the label is right" in text
    assert f"{len(found.candidates)} of {found.planned} were scored" in text
    for row in found.rows:
        held_out = " held out" if row.held_out else ""
        assert f"{row.says}{held_out} {row.truth} {row.n}" in text


def test_numbers_in_a_sentence_have_minus_signs_and_keep_their_unit():
    said = typeset("a-b rose by -0.41 logits [-0.48, -0.34], -5 % in layers 1-3")
    figures = "\u22120.41 logits [\u22120.48, \u22120.34], \u22125\u00a0%"
    assert said == f"a-b rose by {figures} in layers 1-3"


def test_every_claim_links_to_a_section_of_the_page(page: _Page):
    names = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [attributes for tag, attributes in page.tags if tag == "a"]
    # Three sentences, one check that has rows, and what carries the ability.
    assert sum("data-where" in link for link in links) == 3 + 1 + 1
    for link in links:
        assert (link["href"] or "")[1:] in names
    assert len(names) == sum("id" in attributes for _, attributes in page.tags)


def test_every_element_that_a_script_looks_for_is_there(page: _Page):
    names = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    script = page.inline["script"][-1]
    wanted = set(re.findall(r'getElementById\("([\w-]+)"\)', script))
    wanted |= set(re.findall(r'd3\.select(?:All)?\("#([\w-]+)', script))
    assert wanted <= names | {"slider"}


def test_nothing_is_fetched(page: _Page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert tag not in ("iframe", "object", "embed", "base", "form")
    for style in page.inline["style"]:
        assert "url(" not in style
        assert "@import" not in style
    for call in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "sendBeacon"):
        assert call not in page.inline["script"][-1]


def test_the_policy_allows_exactly_the_inline_blocks(page: _Page):
    policy = next(
        attributes["content"] or ""
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        digests = {
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in page.inline[kind]
        }
        allowed = re.search(rf"{kind}-src ([^;]+)", policy)
        assert allowed
        assert set(allowed.group(1).split()) == digests
    # An attribute that the policy would block has no place in the page.
    for _, attributes in page.tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes)


def test_hostile_text_stays_text(tmp_path: Path):
    run = write_run(tmp_path / "run", steps=8, base_path=HOSTILE, prompt=HOSTILE)
    verdict = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    verdict["reason"] = HOSTILE
    verdict["evidence"][0] |= {"statement": HOSTILE, "where": {"'\"><script>": HOSTILE}}
    put(run, "verdict.json", json.dumps(verdict))
    nodes = pl.read_parquet(run / "tables" / "nodes.parquet")
    nodes = nodes.with_columns(counterfactual=pl.col("counterfactual").replace("s1_to_io", HOSTILE))
    put_table(run, "nodes", nodes)
    page = _Page(build_report(run).read_text(encoding="utf-8"))
    assert len(page.inline["script"]) == 3
    assert not any(tag == "img" for tag, _ in page.tags)
    assert sum(HOSTILE in text for text in page.text) >= 6
    assert HOSTILE in json.loads(page.data)["families"]["single"]


def test_what_a_counterfactual_changes_is_marked(run: Path):
    html = build_report(run).read_text(encoding="utf-8")
    assert "<dd>After <mark>Kate</mark>, Mary and Jim went to the store" in html


def test_the_data_block_holds_every_effect(run: Path, page: _Page):
    data = json.loads(page.data)
    assert data == json.loads(json.dumps(payload(read_run(run))))
    assert data["steps"] == [0, 8, 16, 24, 32]
    assert data["families"] == {"shared": ["subject", "names"], "single": ["s1_to_io", "s2_to_io"]}
    assert len(data["nodes"]) == LAYERS * (HEADS + 1)
    frame = pl.read_parquet(run / "tables" / "nodes.parquet")
    row = frame.row(
        by_predicate=(pl.col("step") == 16)
        & (pl.col("task") == "ioi3")
        & (pl.col("counterfactual") == "names")
        & (pl.col("node") == "a2.h3"),
        named=True,
    )
    place = 2 * len(data["nodes"]) + [node["id"] for node in data["nodes"]].index("a2.h3")
    columns = data["effects"]["0/ioi3/names"]
    expected = [row[name] for name in ("effect", "effect_low", "effect_high", "attribution")]
    assert [column[place] for column in columns] == pytest.approx(expected, rel=1e-3)


def test_without_scripts_every_seed_has_its_tables(tmp_path: Path):
    run = write_run(tmp_path / "run", seeds=(0, 1, 2), steps=8)
    html = build_report(run).read_text(encoding="utf-8")
    plain = "".join(re.findall(r"<noscript>(.*?)</noscript>", html, re.DOTALL))
    for seed in ("0.1", "0.2"):  # the first one's tables are those that a script refills
        assert plain.count(f"Seed {seed}</summary>") == 3  # overlaps, changes, faithfulness
    assert plain.count("<tr") > 2 * LAYERS * HEADS
    assert "Seed 0.0" not in plain


def test_statements_stand_under_what_they_speak_about(page: _Page):
    text = [part.strip() for part in page.text]
    places = [text.index(title) for title in ("Circuit structure", "Function")]
    assert places == sorted(places)  # the verdict's own order


@pytest.mark.slow
def test_three_seeds_and_31_checkpoints_stay_under_five_megabytes(tmp_path: Path):
    run = write_run(tmp_path / "run", seeds=(0, 1, 2))
    path = build_report(run)
    assert path.stat().st_size < 5_000_000
    data = json.loads(_Page(path.read_text(encoding="utf-8")).data)
    assert len(data["runs"]) == 3
    assert len(data["steps"]) == 31


def test_a_verdict_without_a_gain_is_said_with_the_check_that_fails(tmp_path: Path):
    run = write_run(tmp_path / "run", steps=8, gained=False)
    text = " ".join(" ".join(_Page(build_report(run).read_text(encoding="utf-8")).text).split())
    assert "No gain. The evidence does not decide" in text
    assert "fails" in text


def test_a_faithfulness_that_is_not_reported_is_shown_as_such(broken: Path):
    data = payload(read_run(broken))
    curve = data["faithfulness_curves"]["0/ioi3/subject"]
    assert curve["not_reported"] == ["clean and corrupt do not differ"] * 2
    assert all(value is None for value in curve["values"][0])


def test_empty_tables_that_a_run_may_lack_are_said_to_be_empty(broken: Path):
    for name in (
        "placebo",
        "overlap",
        "head_changes",
        "invariance",
        "faithfulness",
        "edges",
    ):
        put_table(broken, name, pl.DataFrame(schema=SCHEMAS[name]))
    text = " ".join(_Page(build_report(broken).read_text(encoding="utf-8")).text)
    for sentence in (
        "No changes",
        "No overlap",
        "no placebo",
        "No invariance check",
        "No faithfulness",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    "name",
    [
        "provenance.json",
        "verdict.json",
        "tasks/ioi3.test.jsonl",
        *(f"tables/{table}.parquet" for table in SCHEMAS),
    ],
)
def test_a_missing_or_changed_file_is_named(broken: Path, name: str):
    content = (broken / name).read_bytes()
    (broken / name).write_bytes(content[:-1])
    with pytest.raises(CircuitlapseError, match=f"{name} is not what was written"):
        build_report(broken)
    (broken / name).unlink()
    with pytest.raises(CircuitlapseError, match=rf"{name} is missing\. Finish the run: "):
        build_report(broken)
    assert not (broken / "report.html").exists()


def test_a_directory_without_an_experiment_is_no_run(broken: Path):
    (broken / "experiment.toml").unlink()
    with pytest.raises(CircuitlapseError, match=r"is not a run: it has no experiment\.toml\. Pass"):
        build_report(broken)


def test_files_of_another_version_are_named(broken: Path):
    def fails(message: str) -> None:
        with pytest.raises(CircuitlapseError, match=message) as error:
            build_report(broken)
        assert "Delete the file and run the same command again" in str(error.value)

    frame = pl.read_parquet(broken / "tables" / "head_changes.parquet")
    put_table(broken, "head_changes", frame.drop("category"))
    fails(r"changes\.parquet does not have the columns of this version .*other type: category")
    put(broken, "tables/head_changes.parquet", b"PAR1 no more")
    fails(r"changes\.parquet cannot be read as Parquet")
    put_table(broken, "head_changes", frame)
    nodes = pl.read_parquet(broken / "tables" / "nodes.parquet")
    put_table(broken, "nodes", nodes.clear())
    fails(r"nodes\.parquet has no rows")
    put_table(broken, "nodes", nodes)
    for line in ('{"prompt": "x"}', '["x"]', "x"):
        put(broken, "tasks/ioi3.test.jsonl", line + "\n")
        fails(r"ioi3\.test\.jsonl, line 1, is not an item with prompt, answer and corrupt")
    put(broken, "verdict.json", '{"label": "maybe"}')
    fails(r"verdict\.json was written by another version of circuitlapse .got .label: ")


def test_a_place_that_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(CircuitlapseError, match=r"there is no such run directory \(got '.*none'\)"):
        build_report(tmp_path / "none")


def test_a_report_is_built_without_torch(run: Path):
    code = (
        "import sys; from pathlib import Path; "
        "from circuitlapse.report.pages.page import build_report; "
        f"build_report(Path({str(run)!r})); "
        "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_vendored_files_are_as_listed_and_have_a_licence():
    vendor = resources.files("circuitlapse.report") / "vendor"
    manifest = json.loads((vendor / "manifest.json").read_text(encoding="utf-8"))
    about = {entry["licence_file"] for entry in manifest}
    about |= {"manifest.json", "README.md", ".gitattributes"}
    assert {entry["file"] for entry in manifest} | about == {p.name for p in vendor.iterdir()}
    for entry in manifest:
        content = (vendor / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert b"ermission" in (vendor / entry["licence_file"]).read_bytes()
        if entry["name"] == "d3":
            assert f"v{entry['version']}".encode() in content[:200]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.456, "0.46"),
        (-1.0, "\u22121.00"),
        (-0.001, "0.00"),
        (None, "\u2013"),
        (float("nan"), "\u2013"),
    ],
)
def test_numbers_are_written_one_way(value: float | None, text: str):
    assert number(value) == text
