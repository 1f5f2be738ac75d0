"""Anyone's checkpoints: found, checked against the base by name, and loaded as the same model."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.checkpoints import find_checkpoints
from circuitlapse.models.files.files import files_of
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.merge import build_model, read_tensors
from circuitlapse.models.files.quiet import quiet
from circuitlapse.models.files.reference import reference
from circuitlapse.models.files.validate_checkpoint import validate_checkpoint
from small_checkpoints import grown, model_of, moved, save, tokenizer_of, trained
from twins_engine import FAMILIES, tiny


def _found(*names: object) -> dict[int, str]:
    return find_checkpoints([str(name) for name in names])


def _admitted(path: Path, base: Path) -> tuple[Any, list[str]]:
    """Check and load a checkpoint; its model and what was said of it."""
    expected, files = reference(files_of(str(base))), files_of(str(path))
    notes = validate_checkpoint(files, expected)
    return build_model(files, read_tensors(files), expected, "cpu"), notes


def _refused(path: Path, base: Path) -> str:
    with pytest.raises(CircuitlapseError) as caught:
        validate_checkpoint(files_of(str(path)), reference(files_of(str(base))))
    assert str(path) in str(caught.value)
    return str(caught.value)


def _same(ours: Any, theirs: Any) -> None:
    expected = dict(theirs.named_parameters())
    found = dict(ours.named_parameters())
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def sft(tiny_model, tmp_path_factory) -> Path:
    return trained(tiny_model, tmp_path_factory.mktemp("sft") / "out", (8, 16, 104))


def test_a_trainers_output_is_ordered_by_number_however_it_is_named(sft):
    steps = {step: str(sft / f"checkpoint-{step}") for step in (8, 16, 104)}
    for names in ([sft], [sft / "checkpoint-*"], [sft / "checkpoint-{104,8,16}"], steps.values()):
        assert list(_found(*names).items()) == list(steps.items())
    assert find_checkpoints({16: steps[8], 1: steps[16]}) == {1: steps[16], 16: steps[8]}


def test_a_path_is_kept_in_full_and_may_be_named_twice(sft, monkeypatch):
    monkeypatch.chdir(sft)
    found = _found("checkpoint-8", sft / "checkpoint-*")
    assert found[8] == str(sft / "checkpoint-8")
    assert len(found) == 3


def test_steps_come_from_the_trainers_state_where_a_name_has_none(sft, tmp_path):
    (tmp_path / "early").symlink_to(sft / "checkpoint-8")
    assert list(_found(tmp_path / "early", sft / "checkpoint-16")) == [8, 16]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/checkpoint-*", "no path matches this pattern"),
        ("nowhere", "there is no such checkpoint"),
        ("final", "has no step in its name and no trainer_state.json"),
        ("gpt2", "has no step in its name"),
        ("step-8-checkpoint-9", "several steps in its name: 8, 9"),
        ("checkpoint-9", "another step in its name than in its trainer_state.json, which says 8"),
        ("{sft/checkpoint-8,step_8}", "two checkpoints are of step 8"),
    ],
)
def test_what_has_no_place_in_time_is_refused_by_name(sft, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    Path("sft").symlink_to(sft)
    for plain in ("final", "gpt2", "step-8-checkpoint-9", "step_8"):
        Path(plain).mkdir()
        Path(plain, "model.safetensors").touch()
    Path("checkpoint-9").symlink_to(sft / "checkpoint-8")
    with pytest.raises(CircuitlapseError, match=message) as caught:
        _found(name)
    assert name.strip("{}").split(",")[-1].removesuffix("/checkpoint-*") in str(caught.value)


def test_a_saved_checkpoint_is_loaded_with_the_bases_tokenizer(sft, tiny_model):
    model, notes = _admitted(sft / "checkpoint-16", tiny_model)
    assert notes == []
    _same(model.hf, moved(tiny_model, 16))
    assert not any(weight.requires_grad for weight in model.hf.parameters())
    assert model.tokenizer.get_vocab() == tokenizer_of(tiny_model).get_vocab()


@pytest.mark.parametrize("wrapper", ["", "module.", "bare", "nested"])
def test_a_state_dict_with_a_config_or_without_one_is_loaded(tiny_model, tmp_path, wrapper):
    state = moved(tiny_model, 8).state_dict()
    if wrapper == "module.":
        state = {f"module.{name}": weight for name, weight in state.items()}
        state["module.transformer.h.0.attn.bias"] = torch.ones(1, 1, 48, 48).tril()
    if wrapper == "bare":  # the names of the body alone, with the buffers of old versions
        state = {name.removeprefix("transformer."): weight for name, weight in state.items()}
    else:
        (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    kept: Any = {"model": state, "step": 8} if wrapper == "nested" else state
    torch.save(kept, tmp_path / "pytorch_model_step_8.bin")
    torch.save(kept, tmp_path / "pytorch_model_step_16.bin")
    found = _found(tmp_path)
    assert list(found) == [8, 16]
    _same(_admitted(Path(found[8]), tiny_model)[0].hf, moved(tiny_model, 8))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_loaded_as_saved_and_from_a_state_dict(family, tiny_model, tmp_path):
    """GPT-NeoX's files call its output layer otherwise than the model in memory does."""
    tokenizer = tokenizer_of(tiny_model)
    base = save(tiny(family, vocab_size=len(tokenizer)), tmp_path / "base", tokenizer)
    later = save(moved(base, 8), tmp_path / "checkpoint-8", tokenizer)
    torch.save(moved(base, 8).state_dict(), tmp_path / "step_8.bin")
    for path in (later, tmp_path / "step_8.bin"):
        model, notes = _admitted(path, base)
        assert notes == []
        _same(model.hf, moved(base, 8))


def test_a_tied_weight_may_be_saved_under_its_other_name_alone(tiny_model, tmp_path):
    save_model(moved(tiny_model, 8), str(tmp_path / "step_8.safetensors"))
    assert "transformer.wte.weight" not in load_file(tmp_path / "step_8.safetensors")
    model, notes = _admitted(tmp_path / "step_8.safetensors", tiny_model)
    assert notes == []
    _same(model.hf, moved(tiny_model, 8))


def test_what_a_script_keeps_with_its_state_dicts_is_no_checkpoint(tiny_model, tmp_path):
    for name in ("optimizer_step_8.pt", "scheduler-step-8.pt", "rng_state_step_8.pth"):
        torch.save({"step": torch.tensor(8)}, tmp_path / name)
    torch.save(moved(tiny_model, 8).state_dict(), tmp_path / "model_step_8.pt")
    assert _found(tmp_path) == {8: str(tmp_path / "model_step_8.pt")}


def test_a_state_dict_that_would_run_code_is_refused_and_runs_none(tiny_model, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "step_8.bin"
    path.write_bytes(pickle.dumps({"weight": Trap()}, protocol=2))
    assert "no file of tensors alone" in _refused(path, tiny_model)
    torch.save({"weight": Trap()}, path)
    assert "no file of tensors alone" in _refused(path, tiny_model)
    assert not (tmp_path / "sprung").exists()


def test_a_grown_vocabulary_is_cut_back_and_said_so(tiny_model, tmp_path):
    rows = len(tokenizer_of(tiny_model))
    model, notes = _admitted(grown(tiny_model, tmp_path / "step_8", 8), tiny_model)
    assert notes == [
        f"{tmp_path / 'step_8'} has {rows + 1} rows in its vocabulary where the base has {rows}: "
        "the last 1 are dropped"
    ]
    assert model.hf.config.vocab_size == rows
    _same(model.hf, moved(tiny_model, 8))
    # A state dict of the grown model beside the config of the small one.
    torch.save(model_of(tmp_path / "step_8").state_dict(), tmp_path / "step_8.bin")
    _same(_admitted(tmp_path / "step_8.bin", tiny_model)[0].hf, moved(tiny_model, 8))


def test_an_untied_unembedding_is_cut_back_too(tmp_path):
    hf = tiny("llama", vocab_size=30)
    save(hf, tmp_path / "base")
    hf.resize_token_embeddings(33)
    save(hf, tmp_path / "step-1")
    model, notes = _admitted_without_tokenizer(tmp_path / "step-1", tmp_path / "base")
    assert "33 rows" in notes[0]
    _same(model, model_of(tmp_path / "base"))


def _admitted_without_tokenizer(path: Path, base: Path) -> tuple[Any, list[str]]:
    expected, files = reference(files_of(str(base))), files_of(str(path))
    expected.__dict__["tokenizer"] = None
    notes = validate_checkpoint(files, expected)
    return build_model(files, read_tensors(files), expected, "cpu").hf, notes


def test_a_lora_adapter_is_merged(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    with quiet():
        adapted = get_peft_model(model_of(tiny_model), settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    adapted.save_pretrained(tmp_path / "checkpoint-8")
    model, notes = _admitted(tmp_path / "checkpoint-8", tiny_model)
    tokens = torch.arange(10)[None]
    expected = adapted.eval()(tokens).logits
    torch.testing.assert_close(model.hf(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert (expected - model_of(tiny_model)(tokens).logits).abs().max() > 0.1
    assert len(notes) == (str(tiny_model) != adapted.peft_config["default"].base_model_name_or_path)
    narrow = tiny("gpt2", vocab_size=len(tokenizer_of(tiny_model)))
    save(narrow, tmp_path / "narrow", tokenizer_of(tiny_model))
    assert "does not fit the base" in _refused(tmp_path / "checkpoint-8", tmp_path / "narrow")
    config = tmp_path / "checkpoint-8/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "IA3"}))
    assert "is no LoRA adapter, and other kinds are not supported (got 'IA3')" in _refused(
        config.parent, tiny_model
    )


@pytest.fixture
def hub(sft, tmp_path, monkeypatch) -> Path:
    """A Hub cache as it lies on disk, with two revisions of one model and no network."""
    cache = tmp_path / "hub"
    home = cache / "models--someone--pythia-nano"
    for step in (8, 16):
        commit = f"{step:040x}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / f"step{step}").write_text(commit)
        (home / "snapshots").mkdir(exist_ok=True)
        (home / "snapshots" / commit).symlink_to(sft / f"checkpoint-{step}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def test_revisions_of_the_hub_are_taken_from_its_cache_offline(hub, tiny_model):
    found = _found("someone/pythia-nano@step{16,8}")
    assert found == {step: f"someone/pythia-nano@step{step}" for step in (8, 16)}
    files = files_of(found[16])
    assert files.directory.name == f"{16:040x}"
    expected = reference(files_of(str(tiny_model)))
    assert validate_checkpoint(files, expected) == []
    _same(build_model(files, read_tensors(files), expected).hf, moved(tiny_model, 16))
    with pytest.raises(CircuitlapseError, match=r"no such revision .*pythia-nano@step24"):
        files_of("someone/pythia-nano@step24")


def _edited(source: Path, to: Path, change: Any) -> Path:
    to.mkdir()
    for file in source.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_broken_weights_are_refused_by_name(sft, tiny_model, tmp_path):
    good = sft / "checkpoint-8"

    for bad in ("nan", "inf", "-inf"):

        def break_one(tensors: Any, bad: str = bad) -> None:
            tensors["transformer.h.1.mlp.c_fc.weight"][3, 2] = float(bad)

        message = _refused(_edited(good, tmp_path / bad, break_one), tiny_model)
        assert "not finite numbers (got '1 of 1024 in transformer.h.1.mlp.c_fc.weight')" in message
    lacking = _edited(good, tmp_path / "lacking", lambda t: t.pop("transformer.ln_f.bias"))
    assert "lacks 1 of the base's tensors" in _refused(lacking, tiny_model)
    adapted = _edited(good, tmp_path / "odd", lambda t: t.update(v_head=torch.zeros(1)))
    assert "holds a tensor that the base does not have (got 'v_head')" in _refused(
        adapted, tiny_model
    )
    untied = _edited(good, tmp_path / "untied", _untie)
    assert "unembedding of its own" in _refused(untied, tiny_model)
    _truncate(good_copy := _edited(good, tmp_path / "short", lambda t: None) / "model.safetensors")
    assert "model.safetensors is truncated" in _refused(good_copy.parent, tiny_model)
    torch.save(moved(tiny_model, 8).state_dict(), tmp_path / "step_8.bin")
    _truncate(tmp_path / "step_8.bin")
    assert "step_8.bin is truncated" in _refused(tmp_path / "step_8.bin", tiny_model)


def _untie(tensors: Any) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1


def test_a_missing_shard_is_refused_and_whole_shards_are_loaded(tiny_model, tmp_path):
    moved(tiny_model, 8).save_pretrained(tmp_path / "step-8", max_shard_size="10KB")
    _same(_admitted(tmp_path / "step-8", tiny_model)[0].hf, moved(tiny_model, 8))
    shard = sorted((tmp_path / "step-8").glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CircuitlapseError, match=f"lacks a part of its weights .*{shard.name}"):
        files_of(str(tmp_path / "step-8"))


def test_another_architecture_is_refused_by_name(tiny_model, tmp_path):
    vocabulary = len(tokenizer_of(tiny_model))
    llama = save(tiny("llama", vocab_size=vocabulary), tmp_path / "llama")
    assert "got 'llama, where the base is gpt2'" in _refused(llama, tiny_model)
    hf = moved(tiny_model, 8)
    hf.config.n_head = 4
    four = save(hf, tmp_path / "four")
    assert "(got 'n_head 4, not 2')" in _refused(four, tiny_model)
    state = {**moved(tiny_model, 8).state_dict(), "transformer.wpe.weight": torch.zeros(50, 16)}
    torch.save(state, tmp_path / "step_8.bin")
    assert "wpe.weight [50, 16], not [48, 16]" in _refused(tmp_path / "step_8.bin", tiny_model)
    hf = moved(tiny_model, 8)
    hf.resize_token_embeddings(vocabulary - 1)
    torch.save(hf.state_dict(), tmp_path / "step_9.bin")
    assert f"[{vocabulary - 1}, 16]" in _refused(tmp_path / "step_9.bin", tiny_model)


def test_another_tokenizer_is_refused_by_name(sft, tiny_model, tmp_path):
    other = _edited(sft / "checkpoint-8", tmp_path / "step-8", lambda t: None)
    state = json.loads((other / "tokenizer.json").read_text())
    (first, a), (second, b) = list(state["model"]["vocab"].items())[5:7]
    state["model"]["vocab"].update({first: b, second: a})
    (other / "tokenizer.json").write_text(json.dumps(state))
    message = _refused(other, tiny_model)
    assert "has another tokenizer than the base" in message
    assert f"{min(first, second)!r} is token" in message.replace('"', "'").replace("\\", "")


def test_an_adapter_alone_or_an_empty_directory_is_no_base(tmp_path):
    with pytest.raises(CircuitlapseError, match="holds no checkpoint"):
        files_of(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CircuitlapseError, match="is an adapter alone"):
        reference(files_of(str(tmp_path)))


def test_what_a_trainer_keeps_for_itself_is_not_part_of_the_hash(sft):
    files = files_of(str(sft / "checkpoint-8"))
    before = files.sha256()
    (sft / "checkpoint-8/optimizer.pt").write_bytes(b"other moments")
    assert files.sha256() == before
    assert load_model(files.directory).tokenizer is not None
