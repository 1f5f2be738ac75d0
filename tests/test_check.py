"""The known-answer check, where the answer is known: on a model whose heads are set by hand."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitlapse.circuits.head_tests import Attends, Copies, FeedsQueries, Repeats, Role
from circuitlapse.circuits.known import IOI_HEADS, check_heads, pairs_for
from circuitlapse.cli.check import check_published
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.load import load_model
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.tasks.registry import get_task
from handmade import handmade, handmade_pairs

MADE_FOR = (
    Role("name mover", ((1, 1),), (Attends("END", "IO"), Copies(("IO", "S")))),
    Role("negative", ((1, 2),), (Attends("END", "IO"), Copies(("IO", "S"), negative=True))),
    Role("induction", ((1, 0),), (Attends("S_again", "S+1"), Repeats("induction"))),
    Role("duplicate", ((0, 1),), (Attends("S_again", "S"), Repeats("duplicate"))),
    Role("previous", ((0, 0),), (Attends("S+1", "S"), Repeats("previous"))),
)
WRONG = (
    Role("name mover", ((1, 2), (0, 1)), (Attends("END", "IO"), Copies(("IO", "S")))),
    Role("previous", ((0, 0),), (Repeats("previous", at_least=1.1),)),
    Role("feeds", ((0, 2),), (FeedsQueries(((1, 1), (1, 2))),)),
)


@pytest.fixture(scope="module")
def made():
    return load_model(handmade())


def test_heads_made_for_a_role_are_found(made):
    found = check_heads(made, handmade_pairs(), MADE_FOR)
    assert [check.hit for check in found.heads] == [True] * 5
    assert [check.rank for check in found.heads] == [1] * 5
    assert all(min(check.values) > 0.9 for check in found.heads)
    assert found.n_hits == 5
    assert found.top(1)[0][0] == "a1.h1"
    assert found.roles_of("a1.h1") == ("name mover",)
    assert found.roles_of("a0.h2") == ()
    assert found.clean > found.corrupt
    frame = found.to_frame()
    assert frame["node"].to_list() == ["a1.h1", "a1.h2", "a1.h0", "a0.h1", "a0.h0"]
    assert frame["tests"][1] == "END → IO 1.00, negative copying 1.00"
    assert frame["allowed"].to_list() == [2] * 5


def test_heads_made_for_something_else_are_missed(made):
    found = check_heads(made, handmade_pairs(), WRONG)
    assert [check.hit for check in found.heads] == [False] * 4
    assert found.n_hits == 0
    assert found.heads[0].values[1] == 0
    # In first place, but below the minimum.
    assert found.heads[2].rank == 1


def test_the_heads_that_feed_queries_are_found():
    model: Any = handmade()
    q = model.transformer.h[1].attn.c_attn.weight[:, 32]  # of the name mover
    with torch.no_grad():
        # It asks for names A where the token before is a name B, and not so much that it saturates.
        q[15] = 0
        q[38:44] = 0.1
    base = handmade_pairs()
    s, corrupt = base.clean[:, 1], base.clean.clone()
    clean = base.clean.clone()
    clean[:, 4], corrupt[:, 4] = s, 14
    pairs = type(base).from_tensors(clean, corrupt, base.answers, s, positions=base.positions)
    role = Role("feeds", ((0, 0),), (FeedsQueries(((1, 1),)),))
    (check,) = check_heads(load_model(model), pairs, (role,)).heads
    assert check.hit
    assert check.rank == 1
    assert check.values[0] > 0


def test_a_model_without_such_heads_is_refused(made):
    with pytest.raises(CircuitlapseError, match=r"no head a9\.h9, .*name mover .*2 layers of 3"):
        check_heads(made, handmade_pairs(), IOI_HEADS)


def test_the_published_table_has_every_head_once():
    heads = [head for role in IOI_HEADS for head in role.heads]
    assert len(heads) == len(set(heads)) == 26
    assert max(heads) == (11, 10)


def test_prompts_need_a_tokenizer_that_has_the_names(made, tiny_model):
    task = get_task("ioi2")
    with pytest.raises(CircuitlapseError, match=r"no tokenizer.*save_pretrained"):
        pairs_for(made, task, "s_to_io", 4)
    model = load_model(tiny_model)
    assert len(pairs_for(model, task, "s_to_io", 12)) == 12
    vocabulary = model.tokenizer.get_vocab()
    few = type(model)(model.hf, model.decoder, _without(model.tokenizer, {"Mary", "John"}))
    pairs = pairs_for(few, task, "s_to_io", 12)
    gone = torch.tensor(
        [index for word, index in vocabulary.items() if word[1:] in ("Mary", "John")]
    )
    assert len(pairs) == 12
    assert not torch.isin(pairs.answers, gone).any()
    none = type(model)(model.hf, model.decoder, _without(model.tokenizer, {"and"}))
    with pytest.raises(CircuitlapseError, match=r"'ioi2' cannot .*does not know .*'and'"):
        pairs_for(none, task, "s_to_io", 6)


def _without(tokenizer: PreTrainedTokenizerFast, words: set[str]) -> PreTrainedTokenizerFast:
    """The same tokenizer with some words unknown to it."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    state["model"]["vocab"] = {k: v for k, v in vocabulary.items() if k[1:] not in words}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token=tokenizer.unk_token
    )


@pytest.fixture(scope="module", params=["organism", "gpt2"])
def of_gpt2_shape(request, tmp_path_factory) -> Path:
    """A directory with a narrow random model of as many heads as GPT-2 small has."""
    tokenizer: Any
    if request.param == "organism":
        tokenizer = build_tokenizer()
    elif directory := os.environ.get("CIRCUITLAPSE_GPT2_TOKENIZER"):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    else:
        pytest.skip("CIRCUITLAPSE_GPT2_TOKENIZER does not name a directory with GPT-2's tokenizer")
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=12,
        n_head=12,
        n_embd=24,
        n_positions=64,
        vocab_size=len(tokenizer),
        bos_token_id=end,
        eos_token_id=end,
    )
    directory = tmp_path_factory.mktemp("gpt2-shape")
    GPT2LMHeadModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_the_command_prints_hits_and_misses(of_gpt2_shape):
    output = StringIO()
    console = Console(file=output, width=120)
    check_published(str(of_gpt2_shape), 6, 1, "cpu", console)
    printed = output.getvalue()
    lines = printed.splitlines()
    assert sum("miss" in line or "hit" in line for line in lines) >= 26
    assert "name mover" in printed
    assert "S_again → S+1" in printed
    assert "of 26 published heads (Wang et al. 2022) confirmed." in lines[-1]
    assert int(lines[-1].split()[0]) < 5


def test_without_a_network_the_message_says_to_give_a_directory():
    command = [sys.executable, "-m", "circuitlapse", "check", "gpt2"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere/to/be/found"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "give the directory of a downloaded copy" in done.stderr
    assert "Traceback" not in done.stderr
