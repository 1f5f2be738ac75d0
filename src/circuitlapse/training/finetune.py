"""Fine-tuning with TRL's SFTTrainer, with a checkpoint at every step of a schedule.

No token is added to the vocabulary. If the model has no padding token, the end-of-text token is
used for padding, without a label.
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
from circuitlapse.training.examples import encode
from circuitlapse.training.restart import Restart
from circuitlapse.training.training_eval import (
    DivergedError,
    EvaluationSet,
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
    evaluated: Sequence[EvaluationSet] = (),
    restart: Restart | None = None,
    logs: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> list[Figures]:
    """Fine-tune a model on items; return the figures of all evaluations, in the order of the steps.

    Defaults of ``recipe.trainer`` are no weight decay, no warm-up, gradients clipped at norm 1, and
    single precision whatever the base is saved in, because half precision rounds small updates and
    Adam's epsilon to zero. Seeds, grid, placebos and replay of the recipe are left to the caller.

    ``save`` gets ``(step, model, tokenizer)`` at every step of ``recipe.checkpoint_steps()``, with
    adapters merged, and every checkpoint is evaluated on ``evaluated``. An interrupted training
    resumes from ``restart``, which the caller clears. ``logs`` is for TensorBoard. ``progress``
    gets ``(step, steps)``, ``notice`` a sentence on each training diagnostic that occurs.

    Raises:
        CircuitlapseError: If there are no items, an item cannot be encoded, an adapter is on tied
            weights, or the trainer does not accept an argument or the device.
        DivergedError: If a loss is no longer finite; it has the figures until then.
    """
    if not items:
        raise CircuitlapseError(
            "there are no training items", got="0 items", fix="Pass at least one prompt"
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
        checkpoints = _Checkpoints(recipe, save, tokenizer, evaluated, restart, progress, notice)
        trainer = _trainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            callbacks=[*callbacks, checkpoints],
            peft_config=adapters(recipe),
        )
        checkpoints.trainer = trainer
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = None if logs is None else str(logs)
        state = restart.latest() if restart else None
        try:
            with quiet():
                trainer.train(resume_from_checkpoint=None if state is None else str(state))
        except DivergedError as error:
            error.figures = from_log(trainer.state.log_history, evaluated)
            raise
        grown = _vocabulary(trainer.model)
        if grown != vocabulary:
            raise CircuitlapseError(
                "fine-tuning changed the size of the vocabulary",
                got=f"{vocabulary} -> {grown}",
                fix="Remove the callback or the key of finetune.trainer that resizes it",
            )
        return from_log(trainer.state.log_history, evaluated)


def _trainer(**settings: Any) -> SFTTrainer:
    """Build the trainer; wrong settings of the user become errors of this package."""
    try:
        with quiet():
            trainer = SFTTrainer(**settings)
            trainer.create_optimizer()
    except (ImportError, ValueError) as error:
        raise CircuitlapseError(
            "the trainer cannot be made with this recipe",
            got=str(error),
            fix="Correct finetune.optimizer, finetune.lora or finetune.trainer",
        ) from error
    check_ties(
        cast(nn.Module, trainer.model),
        "an adapter of this recipe",
        "Remove the embeddings and the unembedding from finetune.lora.targets",
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Checkpoints(TrainerCallback):
    """Evaluates and saves, at every step of the schedule."""

    trainer: SFTTrainer

    def __init__(
        self,
        recipe: Finetune,
        save: Save,
        tokenizer: PreTrainedTokenizerBase,
        evaluated: Sequence[EvaluationSet],
        restart: Restart | None,
        progress: Callable[[int, int], None] | None,
        notice: Callable[[str], None] | None,
    ) -> None:
        self.steps, self.checkpoints = recipe.steps, frozenset(recipe.checkpoint_steps())
        self.save, self.tokenizer, self.evaluated = save, tokenizer, evaluated
        self.restart, self.progress, self.notice = restart, progress, notice
        self.state_saved_at = time.monotonic()
        self.reported: set[str] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self._evaluate_and_save(state)

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        if step in self.checkpoints:
            due = control.should_log
            self._evaluate_and_save(state)
            control.should_log = due  # logging the evaluation resets it, but the loss is still due
            waited = time.monotonic() - self.state_saved_at
            if self.restart and step < self.steps and waited >= self.restart.every_seconds:
                control.should_save = True
                self.state_saved_at = time.monotonic()
        if self.progress is not None:
            self.progress(step, self.steps)

    def _evaluate_and_save(self, state: Any) -> None:
        step, model = state.global_step, cast(nn.Module, self.trainer.model)
        if self.evaluated:
            found = [evaluate(model, self.tokenizer, each, step) for each in self.evaluated]
            self.trainer.log({k: v for each in found for k, v in logged(each).items()})
            self._report_diagnostics(found, from_log(state.log_history, self.evaluated))
        self.save(step, _merged(model), self.tokenizer)

    def _report_diagnostics(self, found: Sequence[Figures], history: Sequence[Figures]) -> None:
        base = [each for each in history if each.step == 0]
        for each in found:
            raised = flags(each, found, base, each.step == self.steps)
            for flag in filter(None, raised.split(",")):
                if flag not in self.reported and self.notice is not None:
                    before = next(b for b in base if b.split == each.split)
                    self.notice(f"step {each.step}: {sentence(flag, each, before)}")
                self.reported.add(flag)


def _merged(model: Any) -> PreTrainedModel:
    """Return the model with its adapters merged."""
    if not isinstance(model, PeftModel):
        return model
    # A copy, because unmerging would round.
    return copy.deepcopy(model).merge_and_unload()


def _choose_padding(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    """Pad with a token of the model's vocabulary."""
    padding: Any = tokenizer.pad_token_id
    end: Any = tokenizer.eos_token_id
    if padding is not None and padding < vocabulary:
        return
    if end is None or end >= vocabulary:
        raise CircuitlapseError(
            "the tokenizer has neither a padding nor an end-of-text token of the vocabulary",
            fix="Set tokenizer.pad_token to a token of the vocabulary and save it again",
        )
    tokenizer.pad_token = tokenizer.eos_token


def _vocabulary(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[0]
