"""Adapters, and files next to the weights: what is merged, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.files import files_of
from circuitlapse.models.files.merge import build_model, read_tensors
from circuitlapse.models.files.quiet import quiet
from circuitlapse.models.files.reference import reference
from circuitlapse.models.files.validate_checkpoint import validate_checkpoint
from small_checkpoints import model_of, moved, save, tokenizer_of
from twins_engine import tiny


def _admitted(path: Path, base: Path) -> tuple[Any, list[str]]:
    expected, files = reference(files_of(str(base))), files_of(str(path))
    expected.__dict__["tokenizer"] = None
    notes = validate_checkpoint(files, expected)
    return build_model(files, read_tensors(files), expected, "cpu").hf, notes


def _refused(path: Path, base: Path) -> str:
    with pytest.raises(CircuitlapseError) as caught:
        validate_checkpoint(files_of(str(path)), reference(files_of(str(base))))
    assert str(path) in str(caught.value)
    return str(caught.value)


def _adapted(base: Path, modules: list[str], rank: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    with quiet():
        config = LoraConfig(r=rank, target_modules=modules, **options)
        adapted = get_peft_model(model_of(base), config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_()
    return adapted


def _saved(adapted: Any, to: Path, embeddings: bool) -> Path:
    with quiet():
        adapted.save_pretrained(to, save_embedding_layers=embeddings)
    return to


@pytest.mark.parametrize(
    ("family", "modules"), [("gpt2", ["c_attn"]), ("llama", ["q_proj"]), ("llama", ["lm_head"])]
)
def test_an_adapter_whose_vocabulary_grew_is_the_one_without(tmp_path, family, modules):
    base = save(tiny(family, vocab_size=30), tmp_path / "base")
    adapted = _adapted(base, modules)
    plain = _saved(adapted, tmp_path / "plain", False)
    expected, notes = _admitted(plain, base)
    assert notes == []
    if modules == ["lm_head"]:  # its adapter has a row for each token, and so must be resized too
        adapted = _grown_head(adapted)
    else:
        with quiet():
            adapted.base_model.model.resize_token_embeddings(31)
    grown = _saved(adapted, tmp_path / "grown", True)
    found, notes = _admitted(grown, base)
    assert notes == [
        f"{grown} has 31 rows in its vocabulary where the base has 30: the last 1 are dropped"
    ]
    tokens = torch.arange(10)[None]
    torch.testing.assert_close(found(tokens).logits, expected(tokens).logits, rtol=1e-4, atol=1e-4)
    assert (found(tokens).logits - model_of(base)(tokens).logits).abs().max() > 0.1
    assert found.config.vocab_size == 30


def _grown_head(adapted: Any) -> Any:
    """The same adapter on a model that had one more row before the adapter was put on."""
    config, weights = adapted.peft_config["default"], adapted.state_dict()
    hf = adapted.unload()
    with quiet():
        hf.resize_token_embeddings(31)
        again = get_peft_model(hf, config)
    with torch.no_grad():
        for name, weight in again.named_parameters():
            if "lora_" in name:
                weight.normal_()
                weight[: len(weights[name])] = weights[name]
    return again


def test_an_adapter_of_a_smaller_vocabulary_is_refused(tmp_path):
    base = save(tiny("gpt2", vocab_size=30), tmp_path / "base")
    small = save(tiny("gpt2", vocab_size=29), tmp_path / "small")
    adapter = _saved(_adapted(small, ["c_attn"]), tmp_path / "adapter", True)
    assert "does not fit the base: base_model.model.transformer.wte.weight (got '[29, " in _refused(
        adapter, base
    )


@pytest.mark.parametrize(("family", "module"), [("gpt2", "c_attn"), ("llama", "q_proj")])
def test_an_adapter_of_another_width_is_refused_whatever_its_rank(tmp_path, family, module):
    """A rank that is the base's width must not pass for it."""
    base = save(tiny(family), tmp_path / "base")
    wide = save(tiny(family, hidden_size=16), tmp_path / "wide")
    adapter = _saved(_adapted(wide, [module], rank=8), tmp_path / "adapter", False)
    assert f"{module}.lora_A.weight (got '[8, 16] for [8, " in _refused(adapter, base)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_adapters_of_every_make_are_let_in(tmp_path, options):
    base = save(tiny("gpt2"), tmp_path / "base")
    modules = ["c_attn", "c_proj", "c_fc"] if "lora_bias" in options else ["c_attn", "wpe"]
    adapted = _adapted(base, modules, **options)
    found, notes = _admitted(_saved(adapted, tmp_path / "adapter", False), base)
    tokens = torch.arange(10)[None]
    assert notes == []
    torch.testing.assert_close(
        found(tokens).logits, adapted.eval()(tokens).logits, rtol=1e-4, atol=1e-4
    )


def test_an_adapter_on_one_of_two_tied_tables_is_refused(tmp_path):
    base = save(tiny("gpt2", vocab_size=30), tmp_path / "base")
    adapter = _saved(_adapted(base, ["wte"]), tmp_path / "adapter", False)
    with pytest.raises(CircuitlapseError, match=r"adapter cannot be merged: .*wte\.weight = lm_h"):
        _admitted(adapter, base)


@pytest.mark.parametrize("written", ['{"peft_type": "LO', "[]", "\x00"])
def test_an_adapters_broken_settings_are_refused_by_name(tmp_path, written):
    base = save(tiny("gpt2", vocab_size=30), tmp_path / "base")
    adapter = _saved(_adapted(base, ["c_attn"]), tmp_path / "adapter", False)
    (adapter / "adapter_config.json").write_text(written)
    assert "has an adapter_config.json that cannot be read" in _refused(adapter, base)


@pytest.mark.parametrize(
    "written", ['{"metadata": {}, "weight_m', '{"metadata": {}}', "[]", '{"weight_map": {"a": 1}}']
)
def test_a_broken_index_is_refused_by_name(tiny_model, tmp_path, written):
    moved(tiny_model, 8).save_pretrained(tmp_path / "step-8", max_shard_size="10KB")
    (tmp_path / "step-8/model.safetensors.index.json").write_text(written)
    message = _refused(tmp_path / "step-8", tiny_model)
    assert "model.safetensors.index.json is truncated, or no index of weights" in message
    assert message.endswith("Copy or save this checkpoint again.")


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_other_truncated_files_are_refused_by_name(tiny_model, tmp_path, file):
    path = save(moved(tiny_model, 8), tmp_path / "step-8", tokenizer_of(tiny_model))
    text = (path / file).read_text()
    (path / file).write_text(text[: len(text) // 2])
    assert "that cannot be read" in _refused(path, tiny_model)
