"""What a run keeps of patches by site and of attention, against one prompt at a time."""

from pathlib import Path

import numpy as np
import torch

import circuitlapse as cl
from circuitlapse.analyses.readings import SITES
from circuitlapse.pipeline.measure.readings import patching, patterns
from circuitlapse.reading.attention import attention_patterns


def _pairs(model: cl.Model, task: str, counterfactual: str, n: int) -> cl.PromptPairs:
    return cl.tokenize(cl.get_task(task).items("test", n), model.tokenizer, counterfactual)


def test_patches_are_those_of_each_prompt_at_its_own_positions(tiny_model: Path):
    model = cl.load_model(tiny_model)
    variants = [_pairs(model, "ioi3", name, 3) for name in ("s1_to_io", "s2_to_io")]
    found = patching(model, {"ioi3": variants})
    assert set(found) == {f"ioi3.{site}" for site in SITES}
    for site in SITES:
        expected = np.zeros_like(found[f"ioi3.{site}"])
        for pairs in variants:
            for prompt in range(3):
                one = pairs[prompt : prompt + 1]
                effects = cl.patch(model, one, site=site).numpy()
                if not site.startswith("head"):
                    named = [int(where[0]) for where in one.positions.values()]
                    effects = effects[:, named]
                expected[..., prompt] += effects / 2
        np.testing.assert_allclose(found[f"ioi3.{site}"], expected, atol=2e-5)
    assert found["ioi3.resid_pre"].shape == (2, 6, 3)
    assert np.abs(found["ioi3.resid_pre"]).max() > 1e-3


def test_patterns_keep_every_weight_to_a_255th_and_the_tokens(tiny_model: Path):
    model = cl.load_model(tiny_model)
    pairs = _pairs(model, "ioi2", "s_to_io", 2)
    arrays, about = patterns(model, {"ioi2": pairs})
    for layer in range(2):
        exact = attention_patterns(model, pairs, layer)
        kept = torch.from_numpy(arrays["ioi2"][:, layer].astype(np.float32)) / 255
        assert (kept - exact).abs().max() <= 0.5 / 255 + 1e-6
    prompt = cl.get_task("ioi2").items("test", 2)[0].prompt
    assert "".join(about["tokens"]["ioi2"][0]).replace(" ", "") == prompt.replace(" ", "")
    assert [len(tokens) for tokens in about["tokens"]["ioi2"]] == pairs.lengths.tolist()
