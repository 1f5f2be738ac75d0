import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import logit_differences
from circuitlapse.models.engine.output_scales import rescaled_decoder, write_scales
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.training import train_scales as training_gains
from circuitlapse.training.train_scales import train_scales
from twins_engine import FAMILIES, Literal, random_pairs, tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_scales_multiply_what_each_node_writes_and_nothing_else(family):
    hf = tiny(family)
    model = load_model(hf)
    nodes = model.graph.nodes
    scales = torch.linspace(-1.0, 2.0, len(nodes))
    tokens = torch.tensor([3, 1, 4, 1, 5])
    write_scales(louder := load_model(copy.deepcopy(hf)), scales)
    twin = Literal(hf)
    with torch.no_grad():
        _, before = twin.plain(tokens)
        _, after = Literal(louder.hf).plain(tokens)
    # The first layer's heads read the same embeddings in both; its MLP does in a parallel block.
    first = [n for n in nodes if n.startswith("a0") or (n == "m0" and model.graph.parallel)]
    for node in first:
        torch.testing.assert_close(after[node], scales[nodes.index(node)] * before[node])
    pairs = random_pairs(0)
    scaled = rescaled_decoder(model.decoder, scales)
    values = logit_differences(type(model)(hf, scaled), pairs)[0]
    torch.testing.assert_close(values, logit_differences(louder, pairs)[0])


def test_scales_of_one_change_nothing():
    hf = tiny("gpt2")
    before = {name: p.clone() for name, p in hf.named_parameters()}
    model = load_model(hf)
    write_scales(model, torch.ones(len(model.graph.nodes)))
    assert all(torch.equal(p, before[name]) for name, p in hf.named_parameters())


def test_training_does_as_well_as_the_scales_that_the_answers_came_from(monkeypatch):
    hf = tiny("gpt2", seed=3)
    model, pairs = load_model(hf), random_pairs(1, n=200)
    nodes, rows = model.graph.nodes, torch.arange(200)
    wanted = torch.ones(len(nodes))
    wanted[nodes.index("a1.h0")], wanted[nodes.index("m1")] = 3.0, 0.2

    def logits(scales):
        write_scales(scaled := load_model(copy.deepcopy(hf)), scales)
        with torch.no_grad():
            return scaled.hf(pairs.clean).logits[rows, pairs.lengths - 1]

    answers = logits(wanted).argmax(dim=1)
    mask = (torch.arange(pairs.clean.shape[1]) < pairs.lengths[:, None]).long()
    asked = PromptPairs.from_tensors(pairs.clean, pairs.corrupt, answers, attention_mask=mask)
    before, seen = copy.deepcopy(hf.state_dict()), []
    monkeypatch.setattr(training_gains, "_LEARNING_RATE", 0.1)
    scales = train_scales(
        model,
        asked,
        ["a1.h0", "m1"],
        steps=60,
        report=lambda step, values: seen.append((step, values)),
    )
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    others = [i for i, node in enumerate(nodes) if node not in ("a1.h0", "m1")]
    assert bool((scales[others] == 1).all())
    assert [step for step, _ in seen] == list(range(61))
    assert bool((seen[0][1] == 1).all())
    assert torch.equal(seen[-1][1], scales)
    losses = [float(cross_entropy(logits(g), answers)) for g in (seen[0][1], scales, wanted)]
    assert losses[1] < min(losses[0] - 0.2, losses[2])


def test_scales_for_other_nodes_are_refused():
    model = load_model(tiny("gpt2"))
    with pytest.raises(CircuitlapseError, match=r"one scale for each head and MLP .got '5 for 6'"):
        rescaled_decoder(model.decoder, torch.ones(5))
    with pytest.raises(CircuitlapseError, match=r"no such node .got 'm7'.. Name heads"):
        train_scales(model, random_pairs(0), ["m7"])
