"""``circuitlapse check``: tests of the published heads on a real model, as tables."""

import numpy as np
from rich.console import Console
from rich.table import Table

from circuitlapse.circuits.known import IOI_HEADS, KnownHeads, check_heads, pairs_for
from circuitlapse.models.files.load import load_model
from circuitlapse.tasks.registry import get_task

_TASK, _COUNTERFACTUAL = "ioi2", "s_to_io"


def check_published(source: str, prompts: int, seed: int, device: str, console: Console) -> None:
    """Test the published heads of indirect object identification in a model, and print them."""
    model = load_model(source, device)
    pairs = pairs_for(model, get_task(_TASK), _COUNTERFACTUAL, prompts, seed)
    found = check_heads(model, pairs, IOI_HEADS, seed)
    accuracy = float(found.behaviour.correct.mean(dtype=np.float64))
    console.print(
        f"{source} on {prompts} prompts of {_TASK}: accuracy {accuracy:.2f}, logit difference "
        f"{found.clean:.2f} (corrupt, {_COUNTERFACTUAL}: {found.corrupt:.2f})\n",
        highlight=False,
        markup=False,
    )
    console.print(_heads(found), "", _effects(found), "")
    console.print(
        f"{found.n_hits} of {len(found.heads)} published heads (Wang et al. 2022) confirmed.",
        highlight=False,
    )


def _heads(found: KnownHeads) -> Table:
    table = Table(
        title="Published heads: value of each test, and rank among all heads by their product",
        title_justify="left",
    )
    for column in ("role", "head", "tests"):
        table.add_column(column)
    table.add_column("rank", justify="right")
    table.add_column("")
    for row in found.to_frame().iter_rows(named=True):
        outcome = "hit" if row["hit"] else "miss"
        rank = f"{row['rank']} (up to {row['allowed']})"
        table.add_row(row["role"], row["node"], row["tests"], rank, outcome)
    return table


def _effects(found: KnownHeads) -> Table:
    table = Table(title="Top heads by patching, in logits", title_justify="left")
    table.add_column("head")
    table.add_column("effect", justify="right")
    table.add_column("published as")
    for node, effect in found.top():
        table.add_row(node, f"{effect:+.2f}", ", ".join(found.roles_of(node)))
    return table
