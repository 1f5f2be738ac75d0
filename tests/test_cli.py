"""The command line as a user meets it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import circuitlapse as cl
from circuitlapse.cli.app import main
from circuitlapse.cli.export import export as export_app
from circuitlapse.config.toml import to_toml
from command_line import command
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")

ROOT = Path(__file__).parents[1]


def _python(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def config(tiny_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "small.toml"
    path.write_text(to_toml(small_experiment(tiny_model)))
    return path


@pytest.fixture(scope="module")
def out(finished, tmp_path_factory) -> Path:
    """A finished run whose files may be changed."""
    directory = tmp_path_factory.mktemp("cli") / "run"
    shutil.copytree(finished.path, directory, copy_function=shutil.copy2)
    return directory


def test_the_example_reaches_a_verdict_in_under_ten_lines(config, out):
    """As a script, on a run whose verdict and report are still to be made."""
    for name in ("tables/overlap.parquet", "verdict.json", "report.html"):
        (out / name).unlink()
    done = _python(ROOT / "examples/verdict.py", config, out)
    assert done.returncode == 0, done.stderr
    assert "undetermined" in done.stdout or "no_gain" in done.stdout
    assert str(out / "report.html") in done.stdout
    lines = (ROOT / "examples/verdict.py").read_text().split('"""', 2)[2].splitlines()
    assert len([line for line in lines if line.strip()]) < 10


def test_a_finished_run_says_so_and_prints_its_summary(config, out):
    done = command("run", config, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "the run is finished: nothing to do" in done.stderr
    for expected in ("ioi2", "ioi3", "test_templates", "base", "Top heads", "Verdict: "):
        assert expected in done.stdout
    assert str(out / "report.html") in done.stdout.replace("\n", "")


def test_a_report_is_rebuilt_without_torch(out):
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    script = (
        "import sys\nfrom circuitlapse.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = _python("-c", script, "report", out)
    assert done.returncode == 0, done.stderr
    assert (out / "report.html").read_bytes() == before
    assert cl.load_run(out).report.exists()


def test_a_report_of_changed_tables_is_refused(out):
    table = out / "tables/invariance.parquet"
    before = table.read_bytes()
    try:
        table.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
        done = command("report", out)
        assert done.returncode == 2
        assert "invariance.parquet is not what was written" in done.stderr
    finally:
        table.write_bytes(before)


def test_what_a_run_found_is_exported_for_other_tools(finished, tmp_path, capsys):
    run = finished.path

    def export(*arguments: object) -> str:
        export_app([str(one) for one in arguments], standalone_mode=False)
        return capsys.readouterr().out

    out = export("circuit", run, tmp_path / "new.json", "--edges", 20)
    assert out == f"ioi3 at step 4: {tmp_path / 'new.json'}\n"
    edges = json.loads((tmp_path / "new.json").read_text())["edges"]
    assert len(edges) == cl.Graph(2, 2).n_edges
    assert 0 < sum(edge["in_graph"] for edge in edges.values()) <= 20
    arrays = cl.load_run(run).scores(4, "ioi3")
    variants = cl.get_task("ioi3").families[cl.load_run(run).experiment.measure.counterfactuals[0]]
    expected = sum(arrays[f"edges.{variant}"][0, -1] for variant in variants) / len(variants)
    assert edges["input->logits"]["score"] == pytest.approx(expected, rel=1e-5)
    assert export("checkpoint", run, tmp_path / "out", "--step", 2).startswith("step 2: ")
    assert cl.load_model(tmp_path / "out").tokenizer is not None
    for arguments, message in (
        (["circuit", run, tmp_path / "x.json", "--task", "ioi9"], "Use ioi2 or ioi3"),
        (
            ["circuit", run, tmp_path / "x.json", "--counterfactual", "x"],
            "Use one of subject, names, s1_to",
        ),
        (["checkpoint", run, tmp_path / "x", "--step", 3], "Steps: 0, 2, 4"),
    ):
        with pytest.raises(cl.CircuitlapseError, match=message):
            export(*arguments)


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, circuitlapse\nassert 'torch' not in sys.modules\n"
        "circuitlapse.load_run, circuitlapse.run_experiment\nassert 'torch' not in sys.modules\n"
    )
    assert _python("-c", script).returncode == 0


def test_every_public_name_is_there():
    assert sorted(cl.__all__) == cl.__all__
    for name in cl.__all__:
        assert getattr(cl, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cl.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_version_and_help():
    version = _python("-m", "circuitlapse", "--version")
    assert version.stdout == f"circuitlapse {cl.__version__}\n"
    done = command("--help")
    assert done.returncode == 0
    for name in ("demo", "run", "report"):
        assert name in done.stdout
        assert command(name, "--help").returncode == 0


def test_the_demo_prints_a_config_that_can_be_run(tmp_path):
    done = command("demo", "--organism", "natural", "--seed", 4, "--print-config")
    (tmp_path / "demo.toml").write_text(done.stdout)
    assert cl.read_experiment(tmp_path / "demo.toml") == cl.demo_experiment("natural", 4)
    full = command("demo", "--full", "--pretrain", "--print-config").stdout
    assert "pretrain = true" in full
    assert 'train_only = ["old_circuit", "mlps", "biases", "rank_1"]' in full


def test_a_dry_run_lists_the_jobs_and_does_none(config, tmp_path):
    done = command("run", config, "--out", tmp_path / "run", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()
    assert "measure seed-0 step 4" in done.stdout
    assert "MiB on disk" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[base]\norganism = "default"\n[finetune]\nstep = 3\n', "did you mean `steps`?"),
        ('[base]\npath = "/no/such/model"\n', "/no/such/model"),
        ('[base]\norganism = "default"\n[tasks]\nnew = "ioi9"\n', "there is no such task"),
        (
            '[base]\norganism = "default"\n[measure]\ncounterfactuals = ["nouns"]\n',
            "measure.counterfactuals may hold subject, names",
        ),
        (
            '[base]\norganism = "default"\n[controls]\ntrain_only = [["m0", "a4.h0"]]\n',
            "controls.train_only names a part that the base does not have (got 'a4.h0'). "
            "It has 4 layers of 8 heads: a0.h0 to a3.h7, m0 to m3.",
        ),
    ],
)
def test_bad_input_ends_with_one_message_and_status_2(tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(text)
    done = command("run", "bad.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("circuitlapse: ")


def test_a_place_that_cannot_be_written_is_named(config, out, tmp_path):
    (tmp_path / "file").write_text("kept")
    prompt = "After Mary and John went to the store, Mary gave a drink to"
    for arguments in (
        ("run", config, "--out", "file/run"),
        ("try", out, prompt, "--html", "file/page.html"),
        ("export", out, "--gif", "file/map.gif"),
        ("calibrate", "--out", "file"),
    ):
        done = command(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("circuitlapse: file")
        assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (PermissionError(13, "Permission denied", "/x/.draft-7-map.gif"), "/x/map.gif"),
        (OSError(28, "No space left on device"), "this path"),
    ],
)
def test_what_the_system_refuses_ends_with_one_message_and_status_2(
    monkeypatch, capsys, error, named
):
    def fail():
        raise error

    monkeypatch.setattr("circuitlapse.cli.app.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"circuitlapse: {named} cannot be read or written (got '{error.strerror}'). Check its "
        "permissions and the free disk space, or use another path.\n"
    )


def test_a_fault_that_is_not_a_files_is_not_hidden(monkeypatch):
    def fail():
        raise TimeoutError("no answer")

    monkeypatch.setattr("circuitlapse.cli.app.app", fail)
    with pytest.raises(TimeoutError):
        main()


@pytest.mark.parametrize(
    "arguments",
    [("report", "nowhere"), ("run", "none.toml"), ("demo", "--organism", "odd"), ("unheard-of",)],
)
def test_bad_usage_ends_with_status_2(tmp_path, arguments):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
