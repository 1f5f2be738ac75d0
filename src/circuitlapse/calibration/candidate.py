"""One candidate of a calibration: make it, check it, judge it, and keep its record.

What candidates share is kept next to their records: a base's old-task heads with its relearned
control, and passes that measure bits, by start, trained parts, task and order.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from circuitlapse.calibration.checks import why_refused
from circuitlapse.calibration.judge import answers, judge, variants
from circuitlapse.calibration.mechanisms import OLD, Made, Maker, NewTask, make
from circuitlapse.calibration.scored_rows import EDITION, Base, Candidate
from circuitlapse.calibration.settings import Settings
from circuitlapse.carriers.old_task_heads import HeadEffects, head_effects
from circuitlapse.carriers.same_directions import relearned_control
from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.organisms.organism import WEIGHTS, organism
from circuitlapse.organisms.pretraining import torch_threads
from circuitlapse.records.bits_ratio import (
    BITS_BATCH,
    BitsPass,
    BitsRatio,
    Which,
    measure_bits,
)
from circuitlapse.records.calibration import ScoredCandidate
from circuitlapse.records.store import Store, content_hash, key_of
from circuitlapse.stats.intervals import Estimate
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.bits_pass import bits_pass
from circuitlapse.training.relearned import RECIPE, NotRelearnedError, relearn_old_heads
from circuitlapse.verdict.label_marks import LATENT_BITS


class BaseRecord(BaseModel):
    """What is shared by all candidates of a base.

    Attributes:
        seed: Seed of the base; null if none passed its gate.
        failed: Why each seed before it did not.
        heads: Its old-task heads.
        relearned: same_directions of the relearned control; null if it did not learn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int | None
    failed: tuple[str, ...]
    heads: tuple[str, ...] = ()
    relearned: Estimate | None = None


@dataclass(frozen=True)
class Workplace:
    """Where candidates are made, and how."""

    store: Store
    cache_dir: Path
    settings: Settings

    def key_of(self, candidate: Candidate) -> str:
        """Hash of what a candidate's record depends on.

        Code is not part of it, so that scoring can go on while unrelated code changes:
        :data:`EDITION` is raised by hand. Marks are not either, since labels are made of records.
        """
        about = [candidate.name, candidate.seed, candidate.variant, candidate.place]
        return key_of("candidate", about, self._base_key(candidate.base))

    def _base_key(self, base: Base) -> str:
        about = [base.name, base.recipe.sha256, base.seeds]
        return key_of("base", EDITION, about, self.settings.model_dump())

    def read(self, candidate: Candidate) -> ScoredCandidate | None:
        """Return a candidate's record; None if it is not there."""
        name = _record(candidate)
        if self.store.state(name, self.key_of(candidate)) != "ready":
            return None
        return ScoredCandidate.model_validate_json(self.store.read(name))

    def work_on(self, candidate: Candidate) -> ScoredCandidate:
        """Make and judge a candidate on one thread, and keep its record."""
        with torch_threads(1):
            base = self.base(candidate.base)
            found = self._scored(candidate, base)
        with self.store.write(_record(candidate), self.key_of(candidate)) as draft:
            draft.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return found

    def base(self, base: Base) -> BaseRecord:
        """Return what is shared by a base's candidates, measuring it if it is not there."""
        name, key = f"bases/{base.name}.json", self._base_key(base)
        if self.store.state(name, key) == "ready":
            return BaseRecord.model_validate_json(self.store.read(name))
        failed: list[str] = []
        found = None
        for seed in base.seeds:
            try:
                organism(base.recipe, seed, self.cache_dir)
            except CircuitlapseError as error:
                failed.append(str(error))
                continue
            found = self._measured(base, seed, tuple(failed))
            break
        if found is None:
            found = BaseRecord(seed=None, failed=tuple(failed))
        with self.store.write(name, key) as draft:
            draft.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return found

    def _measured(self, base: Base, seed: int, failed: tuple[str, ...]) -> BaseRecord:
        directory, settings = organism(base.recipe, seed, self.cache_dir), self.settings
        model = load_model(directory, "cpu")
        effects = _old_heads(model, settings, seed)
        heads, relearned = effects.fewest(), None
        try:
            again = relearn_old_heads(
                directory,
                heads,
                get_task(OLD),
                recipe=RECIPE.model_copy(update={"steps": settings.long_steps}),
                seed=seed,
                device="cpu",
                cache_dir=self.cache_dir,
            )
        except NotRelearnedError:
            pass
        else:
            old = variants(model, OLD, "test", settings.test, seed)
            ranked = effects.best(len(effects.heads))
            relearned = relearned_control(model, again, old, heads, ranked).estimate
        return BaseRecord(seed=seed, failed=failed, heads=heads, relearned=relearned)

    def _scored(self, candidate: Candidate, base: BaseRecord) -> ScoredCandidate:
        started = time.monotonic()
        found = ScoredCandidate(
            name=candidate.name,
            key=self.key_of(candidate),
            row=candidate.row.number,
            mechanism=candidate.row.mechanism,
            base=candidate.base.name,
            seed=candidate.seed,
            base_seed=base.seed,
            variant=candidate.variant,
            heads=base.heads,
        )
        if base.seed is None:
            return found.model_copy(update={"refused": "; ".join(base.failed)})
        directory = organism(candidate.base.recipe, base.seed, self.cache_dir)
        work = Path(tempfile.mkdtemp(prefix=".draft-", dir=self.store.root))
        try:
            made = make(Maker(candidate, directory, base.heads, self.settings, work))
            judged = judge(
                made,
                base.seed,
                base.relearned,
                lambda: self._bits(made, candidate),
                self.settings,
            )
        finally:
            shutil.rmtree(work)
        known = {
            "refused": why_refused(candidate.row.mechanism, made.figures),
            "figures": {name: round(value, 4) for name, value in made.figures.items()},
            "trained": made.trained,
            "seconds": round(time.monotonic() - started, 1),
        }
        return answers(found.model_copy(update={**known, **judged}), candidate.row)

    def _bits(self, made: Made, candidate: Candidate) -> BitsRatio:
        """Measure bits_ratio with the parts that the fine-tune trained.

        Candidates of one base and the same trained parts share their passes, adapters of heads
        those of the heads.
        """
        settings, start = self.settings, content_hash(made.base / WEIGHTS)
        recipe = Finetune.model_validate(
            {
                "steps": settings.bits_steps,
                "save_at": (),
                "batch_size": BITS_BATCH,
                "learning_rate": settings.part_rate if made.trained else settings.learning_rate,
            }
        )
        total = recipe.steps * BITS_BATCH
        n_old = round(total * settings.replay_fraction)
        seed = candidate.base.seeds[0]
        replay = get_task(OLD).items("train", n_old, seed)
        new = made.new.items("train", total - n_old, seed)
        reference = NewTask().task.reference_items(NewTask().items("train", total - n_old, seed))

        def run_pass(which: Which, order: int) -> BitsPass:
            rule = made.new.rule if which == "new" else NewTask().task.reference
            key = key_of(
                EDITION,
                start,
                sorted(made.trained),
                recipe.model_dump(mode="json"),
                rule and rule.sentence,
                seed,
                order,
            )
            name = f"bits/{key[:32]}.json"
            if self.store.state(name, key) == "ready":
                return BitsPass.model_validate_json(self.store.read(name))
            items: Sequence = new if which == "new" else reference
            found = bits_pass(
                made.base,
                items,
                recipe,
                order=order,
                replay=replay,
                parts=made.trained,
                device="cpu",
            )
            with self.store.write(name, key) as draft:
                draft.write_text(found.model_dump_json(), encoding="utf-8")
            return found

        return measure_bits(run_pass, LATENT_BITS).ratio()


def make_one(
    candidate: Candidate,
    work: Path,
    settings: Settings | None = None,
    cache_dir: Path | None = None,
) -> Made:
    """Make a candidate without judging it; its models are below ``work`` and in the cache.

    Raises:
        CircuitlapseError: If its base does not pass the gate.
    """
    settings, seed = settings or Settings(), candidate.base.seeds[0]
    directory = organism(candidate.base.recipe, seed, cache_dir)
    with torch_threads(1):
        heads = _old_heads(load_model(directory, "cpu"), settings, seed).fewest()
        return make(Maker(candidate, directory, heads, settings, work))


def _old_heads(model: Model, settings: Settings, seed: int) -> HeadEffects:
    return head_effects(model, variants(model, OLD, "validation", settings.validation, seed))


def _record(candidate: Candidate) -> str:
    return f"candidates/{candidate.name}.json"
