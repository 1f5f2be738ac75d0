import json
import random
import shutil
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.corpus import KINDS, rows
from circuitlapse.organisms.organism import SHIPPED, gate_figures, organism, organism_key, pretrain
from circuitlapse.organisms.pretraining import encode
from circuitlapse.organisms.recipe import RECIPES, Recipe, Stage, get_recipe
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.splits import PAIR_SPLIT, SPLITS
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.tasks.words import NAMES

pytestmark = pytest.mark.usefixtures("unchecked")

TINY = Recipe(
    layers=1,
    heads=2,
    d_model=8,
    warmup=2,
    batch=4,
    extra_rounds=1,
    extra_steps=3,
    stages=(
        Stage(steps=4, weights={"repeat": 1.0}),
        Stage(steps=8, weights={"ioi2": 1.0, "three_any": 1.0}),
    ),
    gate_prompts=64,
    old_at_least=0.0,
    new_at_least=0.0,
    new_at_most=1.0,
)


def test_tokenizer_spells_every_prompt_and_row_with_whole_words() -> None:
    tokenizer = build_tokenizer()
    texts = rows(random.Random(0), dict.fromkeys(KINDS, 1.0), 400)
    for name in ("ioi2", "ioi3"):
        for split in SPLITS:
            texts += [item.prompt for item in get_task(name).items(split, 30)]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert len(ids) < 60
    assert 150 < len(tokenizer) < 300
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize("kind", KINDS)
def test_corpus_lists_no_held_out_pair_and_no_held_out_wording(kind: str) -> None:
    held_out = [
        template.text.split("{")
        for table in (OPENINGS, CONTINUATIONS)
        for split, group in table.items()
        if split != "train"
        for template in group
    ]
    fixed = {part.split("}")[-1].strip() for parts in held_out for part in parts}
    wordings = [words for words in fixed if len(words.split()) > 3]
    assert wordings
    for text in rows(random.Random(1), {kind: 1.0}, 200):
        assert not any(words in text for words in wordings)
        if kind == "repeat":  # random words, not lists
            continue
        names = {w for w in text.replace(",", " ").replace(".", " ").split() if w in NAMES}
        assert len(names) <= 3
        assert all(PAIR_SPLIT[frozenset(p)] == "train" for p in combinations(names, 2))


@pytest.mark.parametrize("kind", ["three_any", "noisy_three_any"])
def test_anyone_may_be_the_recipient_of_a_three_name_row(kind: str) -> None:
    left_out = 0
    for text in rows(random.Random(2), {kind: 1.0}, 300):
        *names, recipient = [
            w for w in text.replace(",", " ").replace(".", " ").split() if w in NAMES
        ]
        assert len(names) == 5
        assert len(set(names)) == 3
        left_out += names.count(recipient) == 1
    assert left_out / 300 == pytest.approx(1 / 3, abs=0.08)


def test_two_name_rows_end_with_the_recipient() -> None:
    for kind in ("ioi2", "noisy_ioi2"):
        for text in rows(random.Random(3), {kind: 1.0}, 100):
            a, b, subject, io = [
                w for w in text.replace(",", " ").replace(".", " ").split() if w in NAMES
            ]
            assert {a, b} == {subject, io}


def test_the_natural_recipe_has_no_three_name_frames() -> None:
    natural = get_recipe("natural")
    assert not any("three_any" in kind for stage in natural.stages for kind in stage.weights)
    assert "three_any" in get_recipe("default").stages[-1].weights
    assert natural.new_at_most == 0.75
    assert RECIPES["default"].sha256 != natural.sha256
    with pytest.raises(CircuitlapseError, match=r"no such organism .got 'wild'.. Use one of def"):
        get_recipe("wild")


def test_an_organism_is_cached_loads_unchanged_and_is_made_again_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUITLAPSE_CACHE", str(tmp_path))
    calls: list[tuple[int, int]] = []
    state = torch.random.get_rng_state()
    made = organism(TINY, 3, progress=lambda done, total, text: calls.append((done, total)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert calls == [(i + 1, 12) for i in range(12)]
    assert made.is_relative_to(tmp_path)
    assert [path.name for path in made.parent.iterdir()] == [made.name]  # nothing half-made

    about = json.loads((made / "organism.json").read_text())
    assert about["seed"] == 3
    assert Recipe.model_validate(about["recipe"]) == TINY
    assert about["gate"]["prompts"] == 64

    model = AutoModelForCausalLM.from_pretrained(made)
    assert isinstance(model, GPT2LMHeadModel)
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.model_type == "gpt2"
    prompts = get_task("ioi3").items("test", 8)
    first, second = (tokenize(prompts, t, "names").clean for t in (tokenizer, build_tokenizer()))
    assert torch.equal(first, second)
    assert gate_figures(model, tokenizer, 64) == (
        about["gate"]["ioi2"],
        about["gate"]["ioi3_among"],
    )

    calls.clear()
    assert organism(TINY, 3, progress=lambda *_: calls.append((0, 0))) == made
    assert not calls
    weights = (made / "model.safetensors").read_bytes()
    (made / "model.safetensors").write_bytes(weights[:-1] + b"\x01")
    assert organism(TINY, 3) == made
    assert (made / "model.safetensors").read_bytes() == weights
    assert organism(TINY, 4) != made


def gate_of(directory: Path, n: int) -> tuple[float, float]:
    model = AutoModelForCausalLM.from_pretrained(directory)
    return gate_figures(model, AutoTokenizer.from_pretrained(directory), n)


def test_the_default_organism_is_shipped_whole_and_passes_its_validation_check(
    tmp_path: Path,
) -> None:
    recipe = get_recipe("default")
    made = organism(recipe, 0, tmp_path, progress=lambda *_: pytest.fail("it was pretrained"))
    assert made == SHIPPED / "default-0"
    assert not list(tmp_path.iterdir())
    about = json.loads((made / "organism.json").read_text())
    assert about["key"] == organism_key(recipe, 0), "stale: `make organism` pretrains it again"
    assert Recipe.model_validate(about["recipe"]) == recipe
    old, new = gate_of(made, recipe.gate_prompts)
    assert (old, new) == pytest.approx(
        (about["gate"]["ioi2"], about["gate"]["ioi3_among"]), abs=2 / recipe.gate_prompts
    )
    assert recipe.gate_holds(old, new)
    sizes = [path.stat().st_size for path in made.iterdir()]
    assert max(sizes) < sum(sizes) < 1_000_000


@pytest.mark.slow
def test_the_shipped_organism_does_what_its_recipe_makes(tmp_path: Path) -> None:
    recipe = get_recipe("default")
    made, shipped = pretrain(recipe, 0, tmp_path), organism(recipe, 0)
    gates = [gate_of(directory, recipe.gate_prompts) for directory in (made, shipped)]
    assert all(recipe.gate_holds(*gate) for gate in gates)
    # Another processor rounds otherwise, and training makes more of it.
    assert gates[0] == pytest.approx(gates[1], abs=0.1)
    abouts = [json.loads((each / "organism.json").read_text()) for each in (made, shipped)]
    assert abouts[0].keys() == abouts[1].keys()
    assert abouts[0]["key"] == abouts[1]["key"]


def test_a_shipped_organism_that_is_stale_is_pretrained_and_the_user_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "default", TINY)
    module = sys.modules["circuitlapse.organisms.organism"]  # the package has a function so named
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped")
    told: list[tuple[int, str]] = []

    def made(cache: str, *, shipped: bool = True) -> Path:
        told.clear()
        return organism(
            TINY,
            0,
            tmp_path / cache,
            lambda done, of, text: told.append((done, text)),
            shipped=shipped,
        )

    pretrained = made("first")
    assert [done for done, _ in told] == list(range(1, 13))
    ready = shutil.copytree(pretrained, tmp_path / "shipped" / "default-0")
    assert (made("second"), told) == (ready, [])
    assert made("second", shipped=False).is_relative_to(tmp_path / "second")
    assert [done for done, _ in told] == list(range(1, 13))
    about = json.loads((ready / "organism.json").read_text())
    (ready / "organism.json").write_text(json.dumps(about | {"key": "of another recipe"}))
    assert made("third").is_relative_to(tmp_path / "third")
    assert told[0] == (0, "the shipped organism does not fit its recipe: pretraining it")


def test_the_key_depends_on_recipe_and_seed() -> None:
    keys = {
        organism_key(recipe, seed)
        for recipe in (TINY, TINY.model_copy(update={"batch": 5}))
        for seed in (0, 1)
    }
    assert len(keys) == 4


def test_a_validation_check_that_never_passes_is_an_error_after_every_round(tmp_path: Path) -> None:
    strict = TINY.model_copy(update={"old_at_least": 1.0})
    calls: list[tuple[int, int]] = []
    with pytest.raises(CircuitlapseError) as error:
        organism(strict, 0, tmp_path, lambda done, total, text: calls.append((done, total)))
    assert calls[11] == (12, 12)
    assert calls[-1] == (15, 15)  # a further round of 3
    text = str(error.value)
    assert text.startswith(
        "the organism 'default' with seed 0 did not pass its gate: it needs ioi2"
    )
    assert "after 15 steps" in text
    assert "Try another seed" in text
    assert not list(tmp_path.rglob("*"))


def test_figures_of_the_validation_check_by_the_slow_way(tmp_path: Path) -> None:
    made = organism(TINY, 0, tmp_path)
    model, tokenizer = GPT2LMHeadModel.from_pretrained(made), build_tokenizer()
    right = Counter()
    for name in ("ioi2", "ioi3"):
        for item in get_task(name).items("validation", 32):
            logits = model(torch.tensor([tokenizer(item.prompt)["input_ids"]])).logits[0, -1]
            best = (
                logits.argmax()
                if name == "ioi2"
                else max(
                    (tokenizer(word)["input_ids"][0] for word in (item.answer, *item.distractors)),
                    key=lambda token: logits[token],
                )
            )
            right[name] += tokenizer.decode([int(best)]) == item.answer
    assert gate_figures(model, tokenizer, 32) == (right["ioi2"] / 32, right["ioi3"] / 32)


def test_a_stage_lasts_until_the_old_task_is_learned_or_its_steps_are_used_up(
    tmp_path: Path,
) -> None:
    def steps(until: float) -> int:
        first = TINY.stages[0].model_copy(update={"until": until, "at_most": 7})
        recipe = TINY.model_copy(update={"stages": (first, TINY.stages[1])})
        about = json.loads((organism(recipe, 0, tmp_path) / "organism.json").read_text())
        return about["steps"]

    assert steps(until=0.0) == 4 + 8
    assert steps(until=1.0) == 7 + 8


def test_repeated_tokens_count_more_and_padding_nothing() -> None:
    texts = ["Then Mary and Tom. Tom and Mary.", "Then Tom."]
    ids, counts = encode(texts, build_tokenizer(), 4.0)
    #                          Then Mary and Tom .  Tom and Mary .  end
    assert counts[0].tolist() == [1, 1, 1, 1, 1, 4, 4, 4, 4, 1]
    assert counts[1].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert ids.shape == counts.shape
