"""A prompt of one's own at every checkpoint, and the commands that show a finished run."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer import Typer
from typer.testing import CliRunner

import circuitlapse as cl
from circuitlapse.cli.export import export
from circuitlapse.cli.show import show, try_prompt
from circuitlapse.errors import CircuitlapseError
from circuitlapse.reading.prompt import read_prompt
from circuitlapse.training.finetune import finetune
from circuitlapse.training.training_eval import diverged
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")

APP = Typer()
APP.add_typer(export, name="export")
APP.command()(show)
APP.command("try")(try_prompt)
PROMPT = "After John, Mary and Tom went to the store, Mary and John gave a drink to"


@pytest.fixture
def run(finished: cl.Run) -> cl.Run:
    return finished


def _cli(*arguments: object) -> str:
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_prompt_is_read_as_transformers_reads_it(tiny_model: Path):
    model = cl.load_model(tiny_model)
    hf = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    found = read_prompt(model, PROMPT, [(0, 1), (1, 0)], top=4)
    with torch.no_grad():
        theirs = hf(**tokenizer(PROMPT, return_tensors="pt"), output_attentions=True)
    probabilities = theirs.logits[0, -1].softmax(dim=-1)
    best = probabilities.topk(4)
    assert [tokenizer.decode([token]) for token in best.indices.tolist()] == [
        token for token, _ in found.top
    ]
    np.testing.assert_allclose([p for _, p in found.top], best.values, rtol=1e-4)
    assert found.lens[-1] == found.top[0]
    assert len(found.lens) == 3
    for row, (layer, head) in enumerate([(0, 1), (1, 0)]):
        expected = theirs.attentions[layer][0, head, -1]
        torch.testing.assert_close(found.attention[row], expected, rtol=1e-4, atol=1e-5)
    assert "".join(found.tokens) == PROMPT or " ".join(found.tokens).split()[0] == "After"


def test_prompts_that_cannot_be_read_say_why(tiny_model: Path):
    model = cl.load_model(tiny_model)
    with pytest.raises(CircuitlapseError, match=r"the prompt is empty. Pass text such as"):
        read_prompt(model, " ")
    with pytest.raises(CircuitlapseError, match=r"does not know .got 'Xyzzy, Plugh'.*vocabulary"):
        read_prompt(model, "Xyzzy and Mary and Plugh")
    with pytest.raises(CircuitlapseError, match=r"at most 48 tokens"):
        read_prompt(model, "After" + " Mary" * 60)


def test_every_checkpoint_is_asked(run: cl.Run):
    done = []
    tried = run.try_prompt(PROMPT, top=2, advance=lambda *counts: done.append(counts))
    assert tried.steps == [0, 2, 4]
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert [len(top) for top in tried.top] == [2, 2, 2]
    assert tried.attention.shape == (3, 4, len(tried.tokens))
    np.testing.assert_allclose(tried.attention.sum(axis=-1), 1, rtol=1e-4)
    assert tried.top[0] != tried.top[2]
    last = read_prompt(run.model(4), PROMPT, top=2)
    assert tried.top[2] == last.top
    with pytest.raises(CircuitlapseError, match=r"no such checkpoint .*seed 9"):
        run.try_prompt(PROMPT, seed=9)


def test_a_notebook_shows_a_prompt_and_a_run_in_frames_of_their_own(run: cl.Run):
    tried = run.try_prompt(PROMPT, top=2)
    for shown in (tried._repr_html_(), run.show(height=500)._repr_html_()):
        assert shown.startswith("<iframe")
        assert "<script" not in shown
        assert re.search(
            r' sandbox="allow-scripts allow-downloads" srcdoc="[^"<>]+"></iframe>$', shown
        )
    assert 'height="500"' in run.show(height=500)._repr_html_()


def test_try_prints_a_row_for_each_checkpoint(run: cl.Run, tmp_path: Path):
    text = _cli("try", run.path, PROMPT)
    for title in ("Next tokens", "Logit lens", "Attention of the circuit's heads"):
        assert title in text
    assert len(re.findall(r"^│ base ", text, re.MULTILINE)) == 3
    page = tmp_path / "new" / "page.html"
    assert str(page) in _cli("try", run.path, PROMPT, "--html", page).replace("\n", "")
    assert "Content-Security-Policy" in page.read_text(encoding="utf-8")
    with pytest.raises(CircuitlapseError, match="does not know"):
        _cli("try", run.path, "Xyzzy and", "--html", tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_show_prints_the_summary_and_a_map_of_both_circuits(run: cl.Run):
    text = _cli("show", run.path)
    assert "Verdict: " in text
    layers = re.findall(r"^layer (\d)", text, re.MULTILINE)
    assert layers == ["1", "0"]
    head, mlp = r"[ -][ .:~=+*#%@]", r"\|[ -][ .:~=+*#%@]"
    assert re.search(rf"^layer 0 {head} {head} {mlp} +{head} {head} {mlp}", text, re.MULTILINE)
    assert "@" in text  # the largest effect ends the scale


@pytest.mark.slow
def test_the_first_seed_that_finished_is_shown(tiny_model: Path, tmp_path, monkeypatch):
    def lose_seed_7(*arguments, seed: int, **options):
        if seed == 7:
            raise diverged(2, "the loss is")
        return finetune(*arguments, seed=seed, **options)

    monkeypatch.setattr("circuitlapse.pipeline.measure.tune.finetune", lose_seed_7)
    experiment = small_experiment(tiny_model, seeds=[7, 3], steps=2, placebo=False)
    with pytest.raises(CircuitlapseError, match="1 fine-tune"):
        cl.run_experiment(experiment, tmp_path)
    run = cl.load_run(tmp_path)
    assert run.seed == 3
    text = _cli("show", tmp_path)
    assert "seed 3)" in text
    assert "Counterfactual subject, seed 3." in " ".join(text.split())
    last = read_prompt(run.model(2), PROMPT)
    assert last.top == read_prompt(run.model(2, seed=3), PROMPT).top
    assert run.try_prompt(PROMPT).heads
    assert f"{last.top[0][1]:.2f}" in _cli("try", tmp_path, PROMPT)
    with pytest.raises(CircuitlapseError, match=r"seed-7/step-00002 is missing"):
        run.model(2, seed=7)


def test_export_draws_the_map_of_a_run_without_naming_the_command(run: cl.Run, tmp_path: Path):
    _cli("export", run.path, "--svg", tmp_path / "svg", "--gif", tmp_path / "map.gif")
    assert [path.name for path in sorted((tmp_path / "svg").iterdir())] == [
        "step-00000.svg",
        "step-00002.svg",
        "step-00004.svg",
    ]
    with Image.open(tmp_path / "map.gif") as film:
        assert film.format == "GIF"
    with pytest.raises(CircuitlapseError, match=r"there is no format to export\. Pass --gif FILE"):
        _cli("export", run.path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CircuitlapseError, match=r"file is not a directory"):
        _cli("export", run.path, "--png", tmp_path / "file")


def test_a_directory_in_a_files_place_is_left_alone(run: cl.Run, tmp_path: Path):
    kept = tmp_path / "mine" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("x")
    for arguments in (("export", run.path, "--gif"), ("try", run.path, PROMPT, "--html")):
        with pytest.raises(CircuitlapseError, match=r"mine is a directory\. Name a file"):
            _cli(*arguments, kept.parent)
    assert kept.read_text() == "x"
