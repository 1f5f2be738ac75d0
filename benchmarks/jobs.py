"""The jobs of the engine's benchmark: what runs, what it may take, and what it cannot do without.

To add one, add a line to :data:`JOBS`. All of them go through the public interface.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import flops
from inputs import GPT2, ORGANISM, Shape, Tokens

import circuitlapse as cl
from circuitlapse.config.experiment import MIB_FRACTIONS
from circuitlapse.models.engine.behaviour import behaviour


@dataclass(frozen=True)
class Setup:
    """What a job has at hand before the clock starts."""

    shape: Shape
    model: cl.Model
    tokens: Tokens
    pairs: cl.PromptPairs

    @cached_property
    def ranking(self) -> cl.Scores:
        """Rank the edges, for jobs that run circuits; not part of their time."""
        return cl.attribute(self.model, self.pairs, method="eap")


def _last_logits(setup: Setup) -> Callable[[], object]:
    return lambda: setup.model.hf(setup.tokens.clean, logits_to_keep=1)


def _forward(setup: Setup) -> Callable[[], object]:
    return lambda: behaviour(setup.model, setup.pairs)


def _attribute(**options: Any) -> Callable[[Setup], Callable[[], object]]:
    return lambda setup: lambda: cl.attribute(setup.model, setup.pairs, **options)


def _circuit(setup: Setup) -> Callable[[], object]:
    circuit = setup.ranking.top(n_edges=200)
    return lambda: cl.evaluate_circuit(setup.model, circuit, setup.pairs)


def _curve(setup: Setup) -> Callable[[], object]:
    scores = setup.ranking
    return lambda: cl.faithfulness_curve(setup.model, scores, setup.pairs)


def _patch(site: Any) -> Callable[[Setup], Callable[[], object]]:
    return lambda setup: lambda: cl.patch(setup.model, setup.pairs, site=site)


def _circuit_flops(setup: Setup) -> float:
    return flops.circuits(setup.shape, [setup.ranking.top(n_edges=200)])


def _curve_flops(setup: Setup) -> float:
    scores = setup.ranking
    return flops.circuits(setup.shape, [scores.top(fraction=share) for share in MIB_FRACTIONS])


@dataclass(frozen=True)
class Job:
    """One line of the table.

    Attributes:
        name: On the command line.
        title: In the table.
        prepare: Given the setup, returns the work to time.
        flops: Necessary operations; None for what is only there to compare with.
        goal: Forwards of Hugging Face that it should take at most.
        limit: How many are acceptable all the same.
        goal_seconds: Or seconds that it may take.
        goal_gib: Peak of the process's resident set that it may reach.
        peer: Name of TransformerLens' job of the same kind.
        shape: Model and prompts; the table varies its ``start``.
        once: Measured at one first difference only, as others would tell nothing more.
    """

    name: str
    title: str
    prepare: Callable[[Setup], Callable[[], object]]
    flops: Callable[[Setup], float] | None
    goal: float | None = None
    limit: float | None = None
    goal_seconds: float | None = None
    goal_gib: float | None = None
    peer: str | None = None
    shape: Shape = field(default=GPT2)
    once: bool = False


JOBS = (
    Job("hf-last", "Hugging Face, logits at the last token only", _last_logits, None, once=True),
    Job(
        "forward",
        "our forward",
        _forward,
        lambda s: flops.forward(s.shape),
        goal=0.9,
        goal_gib=2,
        peer="forward",
        once=True,
    ),
    Job("eap", "EAP", _attribute(method="eap"), lambda s: flops.eap(s.shape), goal=3.5, goal_gib=2),
    Job(
        "eap-ig",
        "EAP-IG-inputs, 5 steps",
        _attribute(method="eap-ig-inputs", steps=5),
        lambda s: flops.eap_ig(s.shape, 5),
        goal=12,
        goal_gib=2,
    ),
    Job("circuit", "one circuit of 200 edges", _circuit, _circuit_flops, goal=2, goal_gib=2),
    Job("curve", "10 sizes of one ranking", _curve, _curve_flops, goal=10.9, goal_gib=2),
    Job(
        "head-sweep",
        "head outputs, every head",
        _patch("head_out"),
        lambda s: flops.head_sweep(s.shape),
        goal=45,
        limit=56,
        goal_gib=2,
        peer="head-sweep",
    ),
    Job(
        "residual-sweep",
        "residual stream, every layer and position",
        _patch("resid_pre"),
        lambda s: flops.residual_sweep(s.shape),
        goal=34,
        limit=42,
        goal_gib=2,
        peer="residual-sweep",
    ),
    Job(
        "eap-256",
        "EAP on 256 prompts",
        _attribute(method="eap"),
        lambda s: flops.eap(s.shape),
        goal=3.5,
        goal_gib=2,
        shape=replace(GPT2, prompts=256),
        once=True,
    ),
    Job(
        "exact",
        "all 1,519 edges of an organism, exactly",
        _attribute(method="exact"),
        lambda s: flops.exact_edges(s.shape),
        goal_seconds=60,
        goal_gib=2,
        shape=ORGANISM,
        once=True,
    ),
)
"""In the order of the table. Ratios are to a forward on the same prompts by Hugging Face; the ten
sizes may take 12 s where a forward takes 1.1."""


def job(name: str) -> Job:
    return next(one for one in JOBS if one.name == name)
