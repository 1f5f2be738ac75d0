import dataclasses
import json
import warnings
from inspect import unwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    GPT2ForSequenceClassification,
    GPT2Model,
    LlamaModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from circuitlapse.attribution.edges import attribute
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import logit_differences
from circuitlapse.models.families.gpt2 import read_gpt2
from circuitlapse.models.families.readers import READERS
from circuitlapse.models.files import load
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import quiet
from circuitlapse.patching.patching import patch
from twins_engine import FAMILIES, random_pairs, tiny, tiny_gpt2


@pytest.fixture
def directory(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_gpt2().save_pretrained(tmp_path)
    return tmp_path


_LINES = """
import circuitlapse as cl
m = cl.load_model(PATH)
p = cl.PromptPairs.from_tensors(clean, corrupt, answers, distractors)
s = cl.attribute(m, p, method='eap-ig-inputs', steps=5)
c = s.top(n_edges=200)
print(cl.evaluate_circuit(m, c, p))
print(cl.patch(m, p, site='head_out').shape)
"""


def assert_same_weights(ours, theirs) -> None:
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=0, atol=0)


def test_a_directory_loads_frozen_and_in_eval_mode(directory):
    model = load_model(directory)
    assert not model.hf.training
    assert not any(weight.requires_grad for weight in model.hf.parameters())
    assert model.tokenizer is None
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (model.graph.n_layers, model.graph.n_heads) == (2, 3)
    as_text = load_model(str(directory))
    pairs = random_pairs(0)
    ours, theirs = logit_differences(as_text, pairs)[0], logit_differences(model, pairs)[0]
    torch.testing.assert_close(ours, theirs)


def test_loading_says_nothing(directory, capfd):
    load_model(directory)
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_transformers_progress_bars_as_they_were(directory):
    before = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    load_model(directory)
    assert (hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()) == before


def test_weights_are_shared_and_not_copied():
    hf = tiny_gpt2()
    decoder = load_model(hf).decoder
    assert decoder.W_E.data_ptr() == hf.transformer.wte.weight.data_ptr()
    attention = hf.transformer.h[1].attn
    assert decoder.attention[1].weights[0].data_ptr() == attention.c_attn.weight.data_ptr()
    assert decoder.attention[1].W_O.data_ptr() == attention.c_proj.weight.data_ptr()


def test_a_loaded_model_is_left_as_it_is():
    hf = tiny_gpt2().train()
    model = load_model(hf)
    assert model.hf is hf
    assert hf.training
    assert all(weight.requires_grad for weight in hf.parameters())


def test_another_dtype_makes_a_copy():
    hf = tiny_gpt2()
    model = load_model(hf, dtype=torch.float64)
    assert hf.dtype == torch.float32
    assert model.decoder.W_E.dtype == torch.float64


def test_the_tokenizer_comes_with_the_directory(directory):
    words = {" Mary": 0, " John": 1, "?": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(directory)
    assert load_model(directory).tokenizer.convert_tokens_to_ids(" John") == 1


def test_broken_tokenizer_files_are_reported(directory):
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(CircuitlapseError, match=r"could not be loaded: .*remove its files .*ids"):
        load_model(directory)


def test_a_tokenizer_without_its_vocabulary_can_be_done_without(directory):
    config = directory / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(CircuitlapseError, match=r"remove its files .*tokenizer_config.json.*ids"):
        load_model(directory)
    config.unlink()
    assert load_model(directory).tokenizer is None


def test_tensors_of_an_old_checkpoint_load_without_running_its_pickle(directory):
    hf = load_model(directory).hf
    (directory / "model.safetensors").unlink()
    torch.save(hf.state_dict(), directory / "pytorch_model.bin")
    assert_same_weights(load_model(directory).hf, hf)

    class Evil:
        def __reduce__(self):
            return (Path.touch, (directory / "run",))

    torch.save({"weight": Evil()}, directory / "pytorch_model.bin")
    with pytest.raises(CircuitlapseError, match="could not be loaded"):
        load_model(directory)
    assert not (directory / "run").exists()


def test_a_vocabulary_larger_than_the_tokenizer_loads(tiny_model, tmp_path):
    """A pad token added for fine-tuning grows the vocabulary by one."""
    model = load_model(tiny_model)
    n = len(model.tokenizer)
    with quiet():
        model.hf.resize_token_embeddings(n + 1)
        model.hf.save_pretrained(tmp_path)
        model.tokenizer.save_pretrained(tmp_path)
    grown = load_model(tmp_path)
    assert (len(grown.decoder.W_E), len(grown.tokenizer)) == (n + 1, n)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_gives_nearly_the_same(family, dtype):
    hf, pairs = tiny(family, hidden_size=48), random_pairs(8, n=8)
    with torch.no_grad():  # large random weights would magnify every rounding
        for weight in hf.parameters():
            weight.mul_(1.0 if weight.ndim == 1 else 0.4)
    single, half = load_model(hf), load_model(hf, dtype=dtype)
    assert half.decoder.W_E.dtype == getattr(torch, dtype)
    for result in (lambda model: attribute(model, pairs).mean, lambda model: patch(model, pairs)):
        wanted, found = result(single), result(half)
        assert float((found - wanted).norm()) < 0.05 * float(wanted.norm())


def test_an_unknown_dtype_is_refused():
    for dtype in ("double-ish", "int8", torch.int64):
        with pytest.raises(CircuitlapseError, match="Use float64, float32, bfloat16, float16"):
            load_model(tiny_gpt2(), dtype=dtype)


@pytest.mark.parametrize("name", ["/no/such/place", "./nothing", "~/nothing-here", "a/b/c"])
def test_a_missing_directory_is_named(name):
    with pytest.raises(CircuitlapseError, match=rf"no such model directory \(got '{name}'\)"):
        load_model(name)


def test_a_directory_without_a_model_is_named(tmp_path):
    with pytest.raises(CircuitlapseError, match=r"no config\.json in it.*save_pretrained"):
        load_model(tmp_path)


def test_missing_weights_are_reported(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(CircuitlapseError, match=r"could not be loaded: .*Check the name"):
        load_model(directory)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_from_its_files_with_all_its_weights(family, tmp_path):
    hf = tiny(family)
    with quiet():
        hf.save_pretrained(tmp_path / "whole")
        hf.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) >= 3
    for name in ("whole", "shards"):
        assert_same_weights(load_model(tmp_path / name).hf, hf)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_of_every_family_takes_the_documented_lines(family, tmp_path, capsys):
    with quiet():
        tiny(family).save_pretrained(tmp_path)
    pairs = random_pairs(2, n=40)
    given = {name: getattr(pairs, name) for name in ("clean", "corrupt", "answers", "distractors")}
    exec(_LINES, {"PATH": tmp_path, **given})
    said, shape = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert said.startswith("circuit of ")
    assert shape == f"torch.Size([2, {tiny(family).config.num_attention_heads}])"


def test_an_unembedding_that_is_not_in_the_files_is_named(tmp_path):
    with quiet():
        tiny("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CircuitlapseError, match=rf"{tmp_path} lacks weights \(got 'lm_head.weight'\)\. Save it"
    ):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("family", "layers", "weight"),
    [("gpt2", "n_layer", "transformer.h.2"), ("llama", "num_hidden_layers", "model.layers.2")],
)
def test_a_layer_that_is_in_the_config_alone_is_named(family, layers, weight, tmp_path):
    with quiet():
        tiny(family).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config[layers] == 2
    (tmp_path / "config.json").write_text(json.dumps(config | {layers: 3}))
    with pytest.raises(CircuitlapseError, match=rf"lacks weights \(got '{weight}\.[a-z_.0-9]*'"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_reported(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"n_positions": 8}))
    with pytest.raises(CircuitlapseError, match=r"could not be loaded: .*Check the name"):
        load_model(directory)


@pytest.mark.parametrize(
    ("headless", "config"),
    [
        (GPT2Model, tiny_gpt2),
        (GPT2ForSequenceClassification, tiny_gpt2),
        (LlamaModel, lambda: tiny("llama")),
    ],
)
def test_a_model_without_a_head_for_next_tokens_is_refused(headless, config):
    with pytest.raises(
        CircuitlapseError,
        match=rf"no head that predicts .*'{headless.__name__}'.*AutoModelForCausalLM",
    ):
        load_model(headless(config().config))


@pytest.mark.parametrize("family", ["pythia", "llama"])
def test_rotary_frequencies_are_not_rounded_with_the_weights(family, tmp_path):
    hf = tiny(family)
    with quiet():
        hf.save_pretrained(tmp_path)
    from_files = load_model(tmp_path, dtype="bfloat16")
    moved = load_model(hf, dtype="bfloat16")
    for ours, theirs in zip(moved.hf.buffers(), from_files.hf.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    ours, theirs = moved.decoder.rotary, from_files.decoder.rotary
    assert ours is not None
    assert theirs is not None
    torch.testing.assert_close(ours.frequencies, theirs.frequencies, rtol=0, atol=0)
    assert all(buffer.dtype == torch.float32 for buffer in hf.buffers())


def test_broken_weights_are_reported(directory):
    (directory / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CircuitlapseError, match=r"could not be loaded: .*Check the name"):
        load_model(directory)


@pytest.mark.parametrize("source", [3, None, {"model": 1}])
def test_other_sources_are_refused(source):
    unchecked: Any = unwrap(load_model)  # without the type checks of the tests
    with pytest.raises(CircuitlapseError, match=r"from a directory, a Hub name or .*Path"):
        unchecked(source)


def test_an_unsupported_family_is_named(tmp_path):
    config = OPTConfig(
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_size=8,
        ffn_dim=8,
        vocab_size=11,
        word_embed_proj_dim=8,
    )
    with pytest.raises(CircuitlapseError, match=r"not supported \(got 'opt'\)\. .*types: gpt2"):
        load_model(OPTForCausalLM(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt", "vocab_size": 11}))
    with pytest.raises(CircuitlapseError, match=r"not supported \(got 'opt'\)"):
        load_model(tmp_path)


def test_cross_attention_is_refused():
    with pytest.raises(CircuitlapseError, match=r"has cross-attention"):
        load_model(tiny_gpt2(add_cross_attention=True))


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_taken_where_there_is_one(there, monkeypatch):
    asked: list[str] = []
    empty = torch.empty

    def seen(*size: int, device: str) -> torch.Tensor:
        asked.append(device)
        return empty(*size)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch, "empty", seen)
    load.place("auto")
    assert asked == ["cuda" if there else "cpu"]


@pytest.mark.parametrize("device", ["gpuu", "meta", "cuda:99"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(CircuitlapseError, match=rf"no such device \(got '{device}'\)\. Use auto"):
        load_model(tiny_gpt2(), device=device)


def test_a_decoder_that_computes_other_logits_is_refused(monkeypatch):
    def wrong(hf):
        decoder = read_gpt2(hf)
        first = dataclasses.replace(decoder.attention[0], scale=0.9 * decoder.attention[0].scale)
        return dataclasses.replace(decoder, attention=(first, *decoder.attention[1:]))

    monkeypatch.setitem(READERS, "gpt2", wrong)
    with pytest.raises(CircuitlapseError, match=r"logits differ from those of transformers"):
        load_model(tiny_gpt2())


@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 2e-2), ("float16", 2e-2)]
)
def test_logits_may_differ_by_what_rounding_does_and_no_more(dtype, bound, monkeypatch):
    hf, exact = tiny_gpt2(), load._logits
    largest = 1.0

    def off_by(share: float):
        def logits(*given) -> torch.Tensor:
            nonlocal largest
            found = exact(*given).float()
            largest = max(largest, float(found.abs().max()))
            return found + share * bound * largest

        return logits

    monkeypatch.setattr(load, "_logits", off_by(0))
    load_model(hf, dtype=dtype)  # finds the largest
    monkeypatch.setattr(load, "_logits", off_by(0.5))
    load_model(hf, dtype=dtype)
    monkeypatch.setattr(load, "_logits", off_by(1.6))
    with pytest.raises(CircuitlapseError, match=r"logits differ from those of transformers"):
        load_model(hf, dtype=dtype)


def test_another_answer_is_refused_however_near_the_logits(monkeypatch):
    """Within the bound the two largest logits can change places, unless they lie clearly apart."""
    hf, exact, seen = tiny_gpt2(), load._logits, list[torch.Tensor]()

    def moved(share: float):
        def logits(*given) -> torch.Tensor:
            seen.append(exact(*given))
            values, which = seen[-1][0].topk(2, dim=1)
            step = share * (values[:, 0] - values[:, 1])
            first = seen[-1][0].scatter_add(1, which, torch.stack([-step, step], dim=1))
            return torch.cat([first[None], seen[-1][1:]])

        return logits

    monkeypatch.setattr(load, "_logits", moved(0))
    load_model(hf)
    best = seen[0][0].topk(2, dim=1).values
    margin, largest = float((best[:, 0] - best[:, 1]).max()), float(seen[0].abs().max())
    monkeypatch.setitem(load.TOLERANCES, torch.float32, 0.75 * margin / max(1.0, largest))
    monkeypatch.setattr(load, "_logits", moved(0.4))
    load_model(hf)
    monkeypatch.setattr(load, "_logits", moved(0.6))
    with pytest.raises(CircuitlapseError, match=r"logits differ from those of transformers"):
        load_model(hf)


def test_not_a_number_is_refused():
    hf = tiny_gpt2()
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_fc.weight[0, 0] = torch.nan
    with pytest.raises(CircuitlapseError, match=r"own logits are not finite"):
        load_model(hf)
