import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import circuitlapse as cl
from circuitlapse.circuits.mib import export_circuit
from circuitlapse.cli.export import export as export_app
from circuitlapse.config.toml import to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.transformerlens import OFFICIAL_VOCABULARY, export_transformerlens
from twins_engine import random_pairs, tiny_gpt2


@pytest.fixture(scope="module")
def model():
    return cl.load_model(tiny_gpt2())


def random_scores(graph: cl.Graph, seed: int = 0) -> cl.Scores:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(graph.edges.shape, generator=generator) * graph.edges
    return cl.Scores(graph, mean, mean.expand(2, -1, -1), 4)


def row_of(name: str, heads: int) -> int:
    """The place of a node among the rows, as MIB's files number them: heads, then the MLP."""
    if name == "input":
        return 0
    layer, _, head = name[1:].partition(".h")
    return 1 + int(layer) * (heads + 1) + (int(head) if head else heads)


def column_of(name: str, layers: int, heads: int) -> int:
    """The place of a reader among the columns: a layer's queries, keys, values, then its MLP."""
    if name == "logits":
        return layers * (3 * heads + 1)
    node, _, slot = name.partition("<")
    layer, _, head = node[1:].partition(".h")
    start = int(layer) * (3 * heads + 1)
    if not slot:
        return start + 3 * heads
    return start + "qkv".index(slot[0]) * heads + int(head)


def read_json(path):
    """Read a file by what is known of the layout, and return (scores, in graph) as matrices."""
    document = json.loads(path.read_text())
    layers, heads = document["cfg"]["n_layers"], document["cfg"]["n_heads"]
    shape = 1 + layers * (heads + 1), layers * (3 * heads + 1) + 1
    scores, inside = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for name, edge in document["edges"].items():
        writer, reader = name.split("->")
        place = row_of(writer, heads), column_of(reader, layers, heads)
        scores[place], inside[place] = edge["score"], edge["in_graph"]
        assert not edge["in_graph"] or document["nodes"][writer]["in_graph"]
        assert not edge["in_graph"] or document["nodes"][reader.split("<")[0]]["in_graph"]
    return scores, inside


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_scores_and_circuit_come_back_from_the_layout(model, tmp_path, suffix):
    scores = random_scores(model.graph)
    circuit = scores.top(n_edges=20)
    path = export_circuit(tmp_path / f"new/ranking{suffix}", model, scores=scores, circuit=circuit)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if suffix == ".json":
        values, inside = read_json(path)
    else:
        found = torch.load(path, weights_only=True)
        assert found["cfg"] == {
            "n_layers": 2,
            "n_heads": 3,
            "parallel_attn_mlp": False,
            "d_model": 12,
        }
        values, inside = found["edges_scores"], found["edges_in_graph"]
        assert [row_of(name, 3) for name in found["src_nodes"]] == list(range(9))
        assert [column_of(name, 2, 3) for name in found["dst_nodes"]] == list(range(21))
        assert torch.equal(found["nodes_in_graph"], inside.any(dim=1))
    torch.testing.assert_close(values, scores.mean)
    assert torch.equal(inside, circuit.mask)


def test_without_a_circuit_nothing_is_in_and_without_scores_they_are_its_membership(
    model, tmp_path
):
    scores = random_scores(model.graph)
    values, inside = read_json(export_circuit(tmp_path / "scores.json", model, scores=scores))
    torch.testing.assert_close(values, scores.mean)
    assert not inside.any()
    circuit = scores.top(n_edges=20)
    path = export_circuit(tmp_path / "circuit.json", model, circuit=circuit)
    values, inside = read_json(path)
    assert torch.equal(values, circuit.mask.float())
    assert torch.equal(inside, circuit.mask)


def test_gpt2_small_has_the_published_counts(tmp_path):
    small = cl.load_model(tiny_gpt2(layers=12, heads=12))
    scores = random_scores(small.graph)
    document = json.loads(export_circuit(tmp_path / "small.json", small, scores=scores).read_text())
    assert len(document["edges"]) == 32_491
    assert len(document["nodes"]) == 157 + 1
    found = torch.load(export_circuit(tmp_path / "small.pt", small, scores=scores))
    assert found["edges_scores"].shape == (157, 445)
    assert (len(found["src_nodes"]), len(found["dst_nodes"])) == (157, 445)


def test_a_parallel_block_says_so(tmp_path):
    hf = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_size=8,
            intermediate_size=16,
            vocab_size=11,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    model = cl.load_model(hf)
    path = export_circuit(tmp_path / "neox.json", model, scores=random_scores(model.graph))
    document = json.loads(path.read_text())
    assert document["cfg"]["parallel_attn_mlp"] is True
    assert "a0.h0->m0" not in document["edges"]
    assert "a0.h0->m1" in document["edges"]


def grouped():
    config = LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=16,
        intermediate_size=16,
        vocab_size=23,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    return cl.load_model(LlamaForCausalLM(config).eval())


def test_a_shared_key_is_an_edge_of_each_head_that_takes_part(tmp_path):
    model = grouped()
    graph = model.graph
    circuit = random_scores(graph).top(n_edges=40)
    path = export_circuit(tmp_path / "grouped.json", model, circuit=circuit)
    edges = json.loads(path.read_text())["edges"]
    inside = {name for name, edge in edges.items() if edge["in_graph"]}
    expected = set()
    for writer, reader in circuit.edge_names():
        if "<k>" in reader or "<v>" in reader:
            layer, _, rest = reader[1:].partition(".h")
            shared, slot = int(rest[0]), rest[1:]
            heads = [f"a{layer}.h{head}" for head in range(4) if head // 2 == shared]
            expected |= {f"{writer}->{head}{slot}" for head in heads if head in circuit.nodes}
        else:
            expected.add(f"{writer}->{reader}")
    assert inside == expected


def test_scores_of_shared_keys_have_no_place(tmp_path):
    model = grouped()
    with pytest.raises(CircuitlapseError, match=r"4 heads with 2 keys and values.*Pass circuit="):
        export_circuit(tmp_path / "grouped.pt", model, scores=random_scores(model.graph))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_named(model, tmp_path):
    scores = random_scores(model.graph)
    with pytest.raises(CircuitlapseError, match=r"\(got 'ranking.npz'\)\. Change the file's ext"):
        export_circuit(tmp_path / "ranking.npz", model, scores=scores)
    with pytest.raises(CircuitlapseError, match=r"nothing to export\. Pass scores, a circuit or"):
        export_circuit(tmp_path / "nothing.json", model)
    other = random_scores(cl.Graph(2, 4))
    with pytest.raises(CircuitlapseError, match=r"scores and the model differ in shape"):
        export_circuit(tmp_path / "other.json", model, scores=other)


def test_a_run_whose_heads_share_keys_exports_its_circuit_alone(tmp_path, monkeypatch):
    model, run = grouped(), tmp_path / "run"
    run.mkdir()
    experiment = cl.demo_experiment()
    (run / "experiment.toml").write_text(to_toml(experiment))
    found = random_scores(model.graph)
    arrays = {"edges": found.mean, "halves": found.halves, "clean": torch.zeros(4)}
    variants = cl.get_task("ioi3").families[experiment.measure.counterfactuals[0]]
    saved = {f"{name}.{each}": arrays[name].numpy() for name in arrays for each in variants}
    monkeypatch.setattr(cl.Run, "model", lambda *_, **__: model)
    monkeypatch.setattr(cl.Run, "scores", lambda *_: saved)
    arguments = ["circuit", str(run), str(tmp_path / "ours.json")]
    with pytest.raises(CircuitlapseError, match=r"got '4 heads with 2 k.*Pass --edges to export"):
        export_app(arguments, standalone_mode=False)
    assert list(tmp_path.iterdir()) == [run]
    export_app([*arguments, "--edges", "40"], standalone_mode=False)
    expected = export_circuit(tmp_path / "expected.json", model, circuit=found.top(n_edges=40))
    assert (tmp_path / "ours.json").read_text() == expected.read_text()


@pytest.mark.parametrize("name", ["ranking.json", "ranking.pt"])
def test_a_directory_is_never_taken_for_the_file(model, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    with pytest.raises(CircuitlapseError, match=rf"{name} is a directory\. Name a file in it"):
        export_circuit(tmp_path / name, model, scores=random_scores(model.graph))
    assert (tmp_path / name / "mine").read_text() == "mine"


def words(n: int, *, pad: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of n words, with or without a padding token added behind them."""
    vocabulary = {f"w{index}": index for index in range(n - 1)} | {"<end>": n - 1}
    split = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=split, unk_token="w0", eos_token="<end>", bos_token="<end>"
    )
    if pad:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def padded_model(rows: int = 24) -> Model:
    hf = tiny_gpt2(vocab=rows)
    hf.config.pad_token_id = 23
    return Model(hf, cl.load_model(hf).decoder, words(23, pad=True))


def test_a_padding_token_and_its_row_go(tmp_path):
    model = padded_model()
    path = export_transformerlens(model, tmp_path / "out", vocab_size=23)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    hf, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert hf.config.vocab_size == 23
    assert hf.config.pad_token_id == hf.config.eos_token_id
    tokens = random_pairs(0).clean
    torch.testing.assert_close(hf(tokens).logits, model.hf(tokens).logits[..., :23])
    assert len(tokenizer) == 23
    assert tokenizer.pad_token == "<end>"
    assert tokenizer("w3 w7")["input_ids"] == [3, 7]
    # The model itself is as it was.
    assert len(model.decoder.W_E) == 24
    assert model.hf.config.vocab_size == 24
    assert model.tokenizer.pad_token_id == 23


def test_by_default_the_familys_published_vocabulary_is_kept(monkeypatch, tmp_path):
    assert OFFICIAL_VOCABULARY == {"gpt2": 50257}
    monkeypatch.setitem(OFFICIAL_VOCABULARY, "gpt2", 23)
    path = export_transformerlens(padded_model(), tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(path).config.vocab_size == 23
    # Rows that only round the vocabulary up go as well.
    path = export_transformerlens(padded_model(rows=32), tmp_path / "rounded")
    assert AutoModelForCausalLM.from_pretrained(path).config.vocab_size == 23
    bare = cl.load_model(tiny_gpt2(vocab=24))
    with pytest.raises(CircuitlapseError, match=r"official 23 tokens.*no tokenizer.*vocab_size=23"):
        export_transformerlens(bare, tmp_path / "bare")
    export_transformerlens(bare, tmp_path / "bare", vocab_size=24)
    fewer = cl.load_model(tiny_gpt2(vocab=11))
    path = export_transformerlens(fewer, tmp_path / "fewer")
    assert AutoModelForCausalLM.from_pretrained(path).config.vocab_size == 11


def test_a_token_in_use_is_never_dropped(tmp_path):
    model = padded_model()
    model.tokenizer.add_tokens(["<tool>"])
    with pytest.raises(CircuitlapseError, match=r"\(got \"'<tool>' is 24\"\)"):
        export_transformerlens(model, tmp_path / "out", vocab_size=23)
    with pytest.raises(CircuitlapseError, match=r"\(got \"'<end>' is 22\"\)"):
        export_transformerlens(padded_model(), tmp_path / "out", vocab_size=22)
    with pytest.raises(CircuitlapseError, match=r"between 1 and the model's 24 rows \(got 25\)"):
        export_transformerlens(padded_model(), tmp_path / "out", vocab_size=25)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(CircuitlapseError, match=r"nothing is overwritten"):
        export_transformerlens(model, tmp_path / "full")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CircuitlapseError, match=r"nothing is overwritten"):
        export_transformerlens(model, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert (export_transformerlens(model, tmp_path / "empty") / "model.safetensors").is_file()


def test_nothing_half_written_is_left(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model.hf, "save_pretrained", lambda path: (path.mkdir(), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        export_transformerlens(model, tmp_path / "out")
    monkeypatch.setattr(torch, "save", lambda document, path: (path.write_text("half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        export_circuit(tmp_path / "half.pt", model, scores=random_scores(model.graph))
    assert not list(tmp_path.iterdir())
