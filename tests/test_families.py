"""Every family against transformers, and against the model written down edge by edge."""

import pytest
import torch

from circuitlapse.attribution.edges import attribute
from circuitlapse.circuits.evaluate import evaluate_circuit
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.context import Context
from circuitlapse.models.files.load import load_model
from circuitlapse.patching.node_effects import node_effects
from circuitlapse.patching.patching import patch
from twins_engine import FAMILIES, Literal, random_pairs, tiny

families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_logits_are_those_of_transformers_with_padding(family):
    hf = tiny(family)
    decoder, pairs = load_model(hf).decoder, random_pairs(1)
    with torch.no_grad():
        x = decoder.run(decoder.embed(pairs.clean), Context(pairs.logit_positions()))
        ours = decoder.logits(x)[:, 0]
        for row in range(len(pairs)):
            theirs = hf(pairs.clean[row : row + 1, : int(pairs.lengths[row])]).logits[0, -1]
            torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-4)


@families
def test_the_literal_twin_is_the_transformers_model(family):
    hf, pairs = tiny(family), random_pairs(3)
    twin = Literal(hf)
    for clean, _, _ in twin.prompts(pairs):
        with torch.no_grad():
            theirs = twin.hf(clean[None]).logits[0, -1]
            torch.testing.assert_close(twin.plain(clean)[0], theirs, rtol=1e-5, atol=1e-5)


@families
@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs"])
def test_attributions_are_the_literal_ones(family, method):
    hf, pairs = tiny(family), random_pairs(5)
    points = [1.0] if method == "eap" else [k / 3 for k in range(3)]
    scores = attribute(load_model(hf), pairs, method, steps=3)
    assert scores.graph == Literal(hf).graph
    literal = Literal(hf).scores(pairs, points).mean(dim=0)
    torch.testing.assert_close(scores.mean.double(), literal, rtol=1e-4, atol=1e-4)


@families
def test_circuits_are_the_literal_ones(family):
    hf, pairs = tiny(family), random_pairs(7)
    model, twin = load_model(hf), Literal(hf)
    scores = attribute(model, pairs, "eap")
    for fraction in (0.3, 0.7, 1.0):
        circuit = scores.top(fraction=fraction)
        result = evaluate_circuit(model, circuit, pairs)
        for row, (clean, corrupt, metric) in enumerate(twin.prompts(pairs)):
            with torch.no_grad():
                literal = metric(twin.circuit(clean, corrupt, set(circuit.edge_names())))
            torch.testing.assert_close(
                result.metric[row].double(), literal, rtol=1e-4, atol=1e-4, check_dtype=False
            )


@families
def test_node_effects_are_the_literal_ones(family):
    hf, pairs = tiny(family), random_pairs(9)
    model, twin = load_model(hf), Literal(hf)
    effects = node_effects(model, pairs)
    torch.testing.assert_close(
        patch(model, pairs).flatten(),
        effects.unflatten(1, (-1, twin.graph.n_heads + 1))[:, :, :-1].mean(dim=0).flatten(),
    )
    for row, (clean, corrupt, metric) in enumerate(twin.prompts(pairs)):
        with torch.no_grad():
            before = metric(twin.plain(clean)[0])
            _, theirs = twin.plain(corrupt)
            for index, node in enumerate(twin.graph.nodes):

                def reading(_, outputs, node=node, theirs=theirs):
                    values = [theirs[n] if n == node else v for n, v in outputs.items()]
                    return torch.stack(values).sum(dim=0)

                after = metric(twin.run(twin.embed(clean), reading)[0])
                torch.testing.assert_close(
                    effects[row, index].double(), before - after, rtol=1e-4, atol=1e-4
                )


def test_prompts_beyond_the_attention_window_are_refused():
    model = load_model(tiny("mistral", sliding_window=6))
    with pytest.raises(CircuitlapseError, match="at most 6 tokens"):
        attribute(model, random_pairs(0, longest=8, n=20))


def test_rotary_embeddings_that_depend_on_the_length_are_refused():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(CircuitlapseError, match="changes with the length .*dynamic.*llama3"):
        load_model(tiny("llama", hidden_size=16, rope_parameters=rope))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
            "rope_theta": 500.0,
        },
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 500.0,
            "original_max_position_embeddings": 8,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_scaled_rotary_embeddings_load(rope):
    load_model(tiny("llama", rope_parameters=rope))
