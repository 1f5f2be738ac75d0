"""A finished run: its verdict, tables, models and report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from safetensors.numpy import load

from circuitlapse.analyses.registry import SCHEMAS
from circuitlapse.config.finetune import ONLY, TrainingRun
from circuitlapse.config.toml import read_experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.documents import Provenance, Trial, Verdict
from circuitlapse.records.layout import checkpoint, report_path, scores, verdict_path
from circuitlapse.records.store import Store

if TYPE_CHECKING:
    from circuitlapse.models.engine.model import Model


_HEADS = 12


class Page:
    """A page in a notebook, without access to the notebook or the network."""

    def __init__(self, html: str, height: int) -> None:
        """Take a whole HTML document and the height of its frame in pixels."""
        self.html, self.height = html, height

    def _repr_html_(self) -> str:
        from circuitlapse.report.pages.prompt_over_checkpoints import framed

        return framed(self.html, self.height)


class TriedPrompt(Trial):
    """What a run makes of a prompt at every checkpoint, with its page."""

    @property
    def html(self) -> str:
        """A self-contained page like the report."""
        from circuitlapse.report.pages.prompt_over_checkpoints import render_trial

        return render_trial(self)

    def _repr_html_(self) -> str:
        return Page(self.html, 900)._repr_html_()


class Run:
    """A run directory, read with every file checked against its recorded hash.

    Attributes:
        path: The directory.
        experiment: The experiment.
        recipe: Its recipe; None for a grid of several recipes if none is chosen.
    """

    def __init__(self, path: Path | str, recipe: str | None = None) -> None:
        """Open a run; see ``load_run``."""
        self.path = Path(path)
        if not (self.path / "experiment.toml").exists():
            raise CircuitlapseError(
                f"{self.path} is not a run: it has no experiment.toml",
                fix="Pass the directory that `circuitlapse run` or `circuitlapse demo` wrote",
            )
        self.experiment = read_experiment(self.path / "experiment.toml")
        self._store = Store(self.path)
        names = list(self.experiment.finetune.recipes())
        if recipe is not None and recipe not in names:
            raise CircuitlapseError(
                "the run has no such recipe", got=recipe, fix=f"Use one of {', '.join(names)}"
            )
        self.recipe = recipe or (names[0] if len(names) == 1 else None)

    @property
    def recipes(self) -> "dict[str, Run]":
        """The run of each recipe, without recipes that failed in a finished run."""
        names = list(self.experiment.finetune.recipes())
        if (self.path / "provenance.json").exists():
            names = [name for name in names if self._store.record(verdict_path(name))]
        return {name: Run(self.path, name) for name in names}

    def _recipe(self) -> str:
        if self.recipe is None:
            names = ", ".join(self.experiment.finetune.recipes())
            raise CircuitlapseError(
                "the run has several recipes, each with its own results",
                fix=f"Choose one with run.recipes[NAME] or --recipe NAME; names: {names}",
            )
        return self.recipe

    @property
    def seed(self) -> int:
        """The default fine-tuning seed: the first that finished."""
        seeds = self.experiment.finetune.seeds
        # With one seed no table needs to be read and hashed.
        if len(seeds) == 1 or not self._store.record("tables/nodes.parquet"):
            return seeds[0]
        there = set(self.table("nodes")["finetune_seed"])
        return next((seed for seed in seeds if seed in there), seeds[0])

    @property
    def verdict(self) -> Verdict:
        """The verdict with its shares, preconditions and evidence."""
        return Verdict.model_validate_json(self._store.read(verdict_path(self._recipe())))

    @property
    def provenance(self) -> Provenance:
        """Versions, seeds, hashes and times."""
        return Provenance.model_validate_json(self._store.read("provenance.json"))

    @property
    def base(self) -> dict[str, object]:
        """The base model; for an organism also its validation figures."""
        return json.loads(self._store.read("base.json"))

    @property
    def report(self) -> Path:
        """Path of the report, one self-contained HTML page."""
        return self._store.path(report_path(self._recipe()))

    def table(self, name: str) -> pl.DataFrame:
        """Return a result table with the rows of this recipe; of every recipe if none is chosen.

        Args:
            name: Such as ``behaviour``, ``nodes``, ``head_changes`` or ``grafts``;
                docs/reference/run-directory.md lists them all.

        Raises:
            CircuitlapseError: If there is no such table, or the run is not finished.
        """
        if name not in SCHEMAS:
            raise CircuitlapseError(
                "there is no such table", got=name, fix=f"Use one of {', '.join(SCHEMAS)}"
            )
        table = pl.read_parquet(self._store.read(f"tables/{name}.parquet"))
        return table if self.recipe is None else table.filter(pl.col("recipe") == self.recipe)

    def scores(self, step: int, task: str, seed: int | None = None) -> dict[str, np.ndarray]:
        """Return the measurements per prompt at one checkpoint.

        Args:
            step: A step that has a checkpoint.
            task: Name of the old or the new task.
            seed: Fine-tuning seed; by default :attr:`seed`.

        Returns:
            Arrays by name, such as ``effects.names`` of shape ``[prompts, nodes]`` in logits.
        """
        return load(self._store.read(scores(self._training_run(seed).name, step, task)))

    def _training_run(self, seed: int | None) -> TrainingRun:
        return TrainingRun(self._recipe(), self.seed if seed is None else seed)

    def model(self, step: int, seed: int | None = None, device: str = "auto") -> "Model":
        """Load a checkpoint.

        Args:
            step: A step that has a checkpoint; 0 is the base.
            seed: Fine-tuning seed; by default :attr:`seed`.
            device: As :func:`circuitlapse.load_model` takes it.

        Raises:
            CircuitlapseError: If there is no such checkpoint, or it was changed.
        """
        from circuitlapse.models.files.load import load_model
        from circuitlapse.pipeline.inputs.user_checkpoints import load_checkpoint

        training_run, seeds = self._training_run(seed), self.experiment.finetune.seeds
        if step not in self.experiment.steps() or training_run.seed not in seeds:
            raise CircuitlapseError(
                "the run has no such checkpoint",
                got=f"step {step} of seed {training_run.seed}",
                fix=f"Steps: {', '.join(map(str, self.experiment.steps()))}; "
                f"seeds: {', '.join(map(str, seeds))}",
            )
        if self.experiment.checkpoints:
            return load_checkpoint(self.path, self.experiment, step, device)
        return load_model(self._store.path(checkpoint(training_run.name, step)), device)

    def try_prompt(
        self,
        prompt: str,
        top: int = 5,
        seed: int | None = None,
        device: str = "auto",
        advance: Callable[[int, int], None] | None = None,
    ) -> "TriedPrompt":
        """Run a prompt at every checkpoint.

        Args:
            prompt: Text that ends directly before the answer.
            top: Number of next tokens at each checkpoint.
            seed: Fine-tuning seed; by default :attr:`seed`.
            device: As :func:`circuitlapse.load_model` takes it.
            advance: Called with (checkpoints done, checkpoints in all).

        Returns:
            Next tokens, logit lens, and attention of the dozen heads with the largest effect. A
            notebook shows them as a page.

        Raises:
            CircuitlapseError: If there is no such seed, or a checkpoint cannot run the prompt.
        """
        from circuitlapse.reading.prompt import read_prompt

        seed = self.seed if seed is None else seed
        heads = self._circuit_heads(seed)
        places = [(layer, head) for _, layer, head in heads]
        steps, found = self.experiment.steps(), []
        for done, step in enumerate(steps, start=1):
            found.append(read_prompt(self.model(step, seed, device), prompt, places, top))
            if advance:
                advance(done, len(steps))
        return TriedPrompt(
            run=self.path.resolve().name,
            prompt=prompt,
            tokens=found[0].tokens,
            heads=[node for node, _, _ in heads],
            steps=steps,
            top=[each.top for each in found],
            lens=[each.lens for each in found],
            attention=np.stack([each.attention.numpy() for each in found]),
        )

    def _circuit_heads(self, seed: int) -> list[tuple[str, int, int]]:
        """The heads with the largest effect in base or tuned model, on either task."""
        ends = [self.experiment.steps()[0], self.experiment.steps()[-1]]
        effects = self.table("nodes").filter(
            (pl.col("finetune_seed") == seed)
            & (pl.col("counterfactual") == self.experiment.measure.counterfactuals[0])
            & (pl.col("kind") == "head")
            & pl.col("step").is_in(ends)
        )
        order = effects.group_by("node", "layer", "head").agg(pl.col("effect").abs().max())
        strongest = order.sort(["effect", "layer", "head"], descending=[True, False, False])
        return strongest.select("node", "layer", "head").head(_HEADS).rows()

    def show(self, height: int = 900) -> "Page":
        """Return the report for a notebook, in a frame of ``height`` pixels."""
        return Page(self._store.read(report_path(self._recipe())).decode(), height)

    def __repr__(self) -> str:
        """Return the path and, if it is finished, the label."""
        if not (self.path / "provenance.json").exists():
            return f"Run({str(self.path)!r}, unfinished)"
        if self.recipe == ONLY:
            return f"Run({str(self.path)!r}, {self.verdict.label})"
        runs = self.recipes if self.recipe is None else {self.recipe: self}
        labels = ", ".join(f"{name}: {run.verdict.label}" for name, run in runs.items())
        return f"Run({str(self.path)!r}, {labels})"


def load_run(path: Path | str, recipe: str | None = None) -> Run:
    """Open a run directory for reading.

    Args:
        path: The directory.
        recipe: One of a grid's recipes; not needed for a single recipe.

    Raises:
        CircuitlapseError: If it is not a run, or has no such recipe.
    """
    return Run(path, recipe)
