"""Check of published heads: does each pass the tests of its role?

The heads are those of Wang et al. (2022), "Interpretability in the wild: a circuit for indirect
object identification in GPT-2 small". The paper's S1 and S2 are the positions ``S`` and
``S_again``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from circuitlapse.circuits.head_tests import Attends, Copies, FeedsQueries, Repeats, Role, run_tests
from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_name
from circuitlapse.models.engine.behaviour import behaviour, logit_differences
from circuitlapse.models.engine.model import Model
from circuitlapse.patching.patching import patch
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.answers import Behaviour
from circuitlapse.shapes import Float
from circuitlapse.tasks.task import Task
from circuitlapse.tasks.tokenization import tokenize

_SHARE = 10  # a tenth of all heads


@dataclass(frozen=True)
class HeadCheck:
    """One expected head, with the values of its role's tests.

    ``rank`` is its rank among all heads by their product, from 1, and ``allowed`` the last rank of
    a hit. For a hit, every test must also reach its minimum.
    """

    role: str
    node: str
    values: tuple[float, ...]
    rank: int
    allowed: int
    hit: bool


@dataclass(frozen=True, eq=False)
class KnownHeads:
    """Result of a check, by expected head and role.

    Attributes:
        effects: Effect of patching each head's corrupt output, in logits.
        behaviour: The model's answers.
        clean: Mean logit difference on the clean prompts.
        corrupt: Mean logit difference on the corrupt prompts.
    """

    roles: tuple[Role, ...]
    heads: tuple[HeadCheck, ...]
    effects: Float[Tensor, "layers heads"]
    behaviour: Behaviour
    clean: float
    corrupt: float

    @property
    def n_hits(self) -> int:
        """Number of hits."""
        return sum(check.hit for check in self.heads)

    def roles_of(self, node: str) -> tuple[str, ...]:
        """Return the roles in which a head is expected."""
        return tuple(check.role for check in self.heads if check.node == node)

    def top(self, n: int = 10) -> list[tuple[str, float]]:
        """Return the heads with the largest absolute effects, and their effects."""
        order = self.effects.abs().flatten().argsort(descending=True, stable=True)[:n]
        width = self.effects.shape[1]
        return [
            (head_name(*divmod(index, width)), float(self.effects.flatten()[index]))
            for index in order.tolist()
        ]

    def to_frame(self) -> pl.DataFrame:
        """List the expected heads as (role, node, tests, rank, allowed, hit)."""
        tests = {role.name: role.tests for role in self.roles}
        return pl.DataFrame(
            [
                {
                    "role": check.role,
                    "node": check.node,
                    "tests": ", ".join(
                        f"{test} {value:.2f}"
                        for test, value in zip(tests[check.role], check.values, strict=True)
                    ),
                    "rank": check.rank,
                    "allowed": check.allowed,
                    "hit": check.hit,
                }
                for check in self.heads
            ]
        )


def check_heads(
    model: Model, pairs: PromptPairs, roles: Sequence[Role], seed: int = 0
) -> KnownHeads:
    """Test expected heads against all heads of a model.

    A head's score for a role is the product of the role's tests, with negative values as 0. A hit
    is in the first tenth of all heads (or twice the role's number of heads, if that is more) and
    reaches every test's minimum. About one in ten heads has such a rank by chance.

    Raises:
        CircuitlapseError: If the model has no such heads, or the pairs no such positions.
    """
    graph, n_all = model.graph, model.graph.n_layers * model.graph.n_heads
    for role in roles:
        for layer, head in role.heads:
            if layer >= graph.n_layers or head >= graph.n_heads:
                node = head_name(layer, head)
                raise CircuitlapseError(
                    f"the model has no head {node}, which is expected as {role.name}",
                    got=f"{graph.n_layers} layers of {graph.n_heads} heads",
                    fix="Check GPT-2 small, for which the heads were published, or a fine-tune",
                )
    found = run_tests(model, pairs, [test for role in roles for test in role.tests], seed)
    heads = []
    for role in roles:
        values = torch.stack([found[test] for test in role.tests])
        score = values.clamp(min=0).prod(dim=0)
        allowed = min(n_all, max(2 * len(role.heads), n_all // _SHARE))
        for layer, head in role.heads:
            own = values[:, layer, head].tolist()
            rank = int((score >= score[layer, head]).sum())  # a tie counts against it
            passes = all(
                value > 0 and value >= test.at_least
                for value, test in zip(own, role.tests, strict=True)
            )
            node = head_name(layer, head)
            heads.append(
                HeadCheck(role.name, node, tuple(own), rank, allowed, passes and rank <= allowed)
            )
    clean, corrupt = (float(side.mean()) for side in logit_differences(model, pairs))
    effects = patch(model, pairs, site="head_out")
    shown = behaviour(model, pairs)
    return KnownHeads(tuple(roles), tuple(heads), effects, shown, clean, corrupt)


def pairs_for(model: Model, task: Task, counterfactual: str, n: int, seed: int = 0) -> PromptPairs:
    """Draw prompts of a task whose names are single tokens for the model.

    Raises:
        CircuitlapseError: If the model has no tokenizer, or the task cannot be built for it.
    """
    if model.tokenizer is None:
        raise CircuitlapseError(
            "the model has no tokenizer",
            fix="Save its tokenizer in the same directory with tokenizer.save_pretrained",
        )
    return tokenize(task.items("test", n, seed, model.tokenizer), model.tokenizer, counterfactual)


_NAME_MOVERS = ((9, 9), (10, 0), (9, 6))
_TO_RECIPIENT = Attends("END", "IO")
_COPIES_NAMES = Copies(("IO", "S"))

IOI_HEADS: tuple[Role, ...] = (
    Role("name mover", _NAME_MOVERS, (_TO_RECIPIENT, _COPIES_NAMES)),
    Role(
        "backup name mover",
        ((10, 10), (10, 6), (10, 2), (10, 1), (11, 2), (9, 7), (9, 0), (11, 9)),
        (_TO_RECIPIENT, _COPIES_NAMES),
    ),
    Role(
        "negative name mover",
        ((10, 7), (11, 10)),
        (_TO_RECIPIENT, Copies(("IO", "S"), negative=True)),
    ),
    Role(
        "S-inhibition",
        ((7, 3), (7, 9), (8, 6), (8, 10)),
        (Attends("END", "S_again"), FeedsQueries(_NAME_MOVERS)),
    ),
    Role(
        "induction",
        ((5, 5), (5, 8), (5, 9), (6, 9)),
        (Attends("S_again", "S+1"), Repeats("induction")),
    ),
    Role(
        "duplicate token",
        ((0, 1), (0, 10), (3, 0)),
        (Attends("S_again", "S"), Repeats("duplicate")),
    ),
    Role("previous token", ((2, 2), (4, 11)), (Attends("S+1", "S"), Repeats("previous"))),
)
"""The circuit for indirect object identification in GPT-2 small: 26 heads in seven roles."""
