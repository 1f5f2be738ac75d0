"""Fine-tuning through TRL's SFTTrainer, with a checkpoint at every step of a schedule.

No token is ever added to the vocabulary: where a tokenizer has no padding token that the model
knows, its end-of-text token pads, and padding carries no label.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from transformers.integrations.integration_utils import TensorBoardCallback
from trl.trainer.sft_trainer import SFTTrainer

from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.merge import check_ties
from circuitlapse.models.files.quiet import quiet
from circuitlapse.records.figures import Figures, flags, sentence
from circuitlapse.records.items import Item
from circuitlapse.training.arguments import adapters, arguments
from circuitlapse.training.restart import Restart
from circuitlapse.training.training_eval import (
    DivergedError,
    EvaluationSet,
    encode,
    evaluate,
    from_log,
    logged,
)

Save = Callable[[int, PreTrainedModel, PreTrainedTokenizerBase], None]


def finetune(
    base: Path | str,
    items: Sequence[Item],
    save: Save,
    recipe: Finetune,
    *,
    seed: int,
    device: str = "auto",
    watched: Sequence[EvaluationSet] = (),
    restart: Restart | None = None,
    logs: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> list[Figures]:
    """Fine-tune a model on items and hand over its checkpoints, from step 0 to the last.

    Unless ``recipe.trainer`` says otherwise: no weight decay, no warm-up, gradients clipped at
    norm 1, in single precision whatever the base is saved in: half precision rounds small updates
    away, and Adam's epsilon to nothing.

    Args:
        base: Directory or Hub name of the model and its tokenizer.
        items: What to train on, in any order; they are shuffled by ``seed`` and repeated as often
            as the steps need.
        save: Called with ``(step, model, tokenizer)`` at every step of
            ``recipe.checkpoint_steps()``; adapters are merged into the model that it gets.
        recipe: How to train. Its seeds, grid, placebo and old fraction are not looked at.
        seed: Of the shuffling, of adapters and of any dropout.
        device: ``auto`` takes an accelerator where there is one; ``cpu`` never does. Of several
            GPUs it is the first one that can be seen.
        watched: Prompts to look at whenever a checkpoint is saved.
        restart: Where to keep the state that an interrupted training goes on from; without it a
            training begins anew. Whoever calls clears it when all results are safe.
        logs: Where TensorBoard's files go if ``recipe.trainer`` asks for them; without it they
            are gone with the rest of the trainer's own.
        callbacks: More callbacks for the trainer, called before the one that saves.
        progress: Called with ``(step, steps)`` after each step.
        notice: Called with a sentence when a trap first shows in the figures.

    Returns:
        The figures of the watched prompts, in the order of the steps.

    Raises:
        CircuitlapseError: If there are no items, an item cannot be encoded, an adapter is on tied
            weights, or the trainer refuses an argument or the device.
        BlownUpError: If a loss is no longer finite; it holds the figures until then.
    """
    if not items:
        raise CircuitlapseError(
            "there is nothing to fine-tune on", got="0 items", fix="Give at least one prompt"
        )
    datasets.disable_progress_bars()
    with ExitStack() as scratch:
        output = (
            restart.directory
            if restart
            else Path(scratch.enter_context(tempfile.TemporaryDirectory()))
        )
        settings = arguments(recipe, seed, device, output)
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(base)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        vocabulary = _vocabulary(model)
        _choose_padding(tokenizer, vocabulary)
        longest = getattr(model.config, "max_position_embeddings", None)
        examples = encode(items, tokenizer, recipe.preset, longest)
        set_seed(seed)  # of adapters; the trainer sets it again
        watcher = _Checkpoints(recipe, save, tokenizer, watched, restart, progress, notice)
        trainer = _trainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            callbacks=[*callbacks, watcher],
            peft_config=adapters(recipe),
        )
        watcher.trainer = trainer
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = None if logs is None else str(logs)
        state = restart.latest() if restart else None
        try:
            with quiet():
                trainer.train(resume_from_checkpoint=None if state is None else str(state))
        except DivergedError as error:
            error.figures = from_log(trainer.state.log_history, watched)
            raise
        grown = _vocabulary(trainer.model)
        if grown != vocabulary:
            raise CircuitlapseError(
                "fine-tuning changed the size of the vocabulary",
                got=f"{vocabulary} -> {grown}",
                fix="Take out whatever resizes it: a callback, or a key of finetune.trainer",
            )
        return from_log(trainer.state.log_history, watched)


def _trainer(**settings: Any) -> SFTTrainer:
    """Build the trainer, turning its complaints about what the user chose into errors."""
    try:
        with quiet():
            trainer = SFTTrainer(**settings)
            trainer.create_optimizer()
    except (ImportError, ValueError) as error:
        raise CircuitlapseError(
            "the trainer cannot be set up with this recipe",
            got=str(error),
            fix="Correct finetune.optimizer, finetune.lora or finetune.trainer",
        ) from error
    check_ties(
        cast(nn.Module, trainer.model),
        "an adapter of this recipe",
        "Leave the embeddings and the unembedding out of finetune.lora.targets",
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Checkpoints(TrainerCallback):
    """Looks at the watched prompts and saves, at every step of the schedule."""

    trainer: SFTTrainer

    def __init__(
        self,
        recipe: Finetune,
        save: Save,
        tokenizer: PreTrainedTokenizerBase,
        watched: Sequence[EvaluationSet],
        restart: Restart | None,
        progress: Callable[[int, int], None] | None,
        notice: Callable[[str], None] | None,
    ) -> None:
        self.steps, self.at = recipe.steps, frozenset(recipe.checkpoint_steps())
        self.save, self.tokenizer, self.watched = save, tokenizer, watched
        self.restart, self.progress, self.notice = restart, progress, notice
        self.kept_at = time.monotonic()
        self.named: set[str] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self._look_and_save(state)

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        if step in self.at:
            due = control.should_log
            self._look_and_save(state)
            control.should_log = due  # what was looked at is logged, and the loss still is to be
            # Never at the last step: there is nothing to go on with.
            waited = time.monotonic() - self.kept_at
            if self.restart and step < self.steps and waited >= self.restart.every_seconds:
                control.should_save = True
                self.kept_at = time.monotonic()
        if self.progress is not None:
            self.progress(step, self.steps)

    def _look_and_save(self, state: Any) -> None:
        step, model = state.global_step, cast(nn.Module, self.trainer.model)
        if self.watched:
            found = [evaluate(model, self.tokenizer, each, step) for each in self.watched]
            self.trainer.log({k: v for each in found for k, v in logged(each).items()})
            self._name_traps(found, from_log(state.log_history, self.watched))
        self.save(step, _merged(model), self.tokenizer)

    def _name_traps(self, found: Sequence[Figures], history: Sequence[Figures]) -> None:
        base = [each for each in history if each.step == 0]
        for each in found:
            raised = flags(each, found, base, each.step == self.steps)
            for flag in filter(None, raised.split(",")):
                if flag not in self.named and self.notice is not None:
                    before = next(b for b in base if b.split == each.split)
                    self.notice(f"step {each.step}: {sentence(flag, each, before)}")
                self.named.add(flag)


def _merged(model: Any) -> PreTrainedModel:
    """The model without adapters: what they learnt is in its weights."""
    if not isinstance(model, PeftModel):
        return model
    # A copy: taking the adapters out again would not give the same bits.
    return copy.deepcopy(model).merge_and_unload()


def _choose_padding(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    """Pad with a token that the model has; nothing is added for it."""
    padding: Any = tokenizer.pad_token_id
    end: Any = tokenizer.eos_token_id
    if padding is not None and padding < vocabulary:
        return
    if end is None or end >= vocabulary:
        raise CircuitlapseError(
            "the tokenizer has neither a padding nor an end-of-text token that the model knows",
            fix="Set tokenizer.pad_token to a token of the vocabulary and save it again",
        )
    tokenizer.pad_token = tokenizer.eos_token


def _vocabulary(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[0]
