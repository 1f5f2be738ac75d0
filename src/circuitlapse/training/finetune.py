"""Fine-tuning through TRL's SFTTrainer, with the loss on the answer and nothing else.

TRL appends the end-of-text token to every completion it tokenizes itself. With an answer of one
token, half of the loss would then teach the model to stop. So the examples are tokenized here and
their labels hold the answer's tokens only. No token is ever added to the vocabulary: where a
tokenizer has no padding token, its end-of-text token pads, and padding carries no label.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import quiet
from circuitlapse.tasks import Item

Save = Callable[[int, PreTrainedModel, PreTrainedTokenizerBase], None]
IGNORED = -100  # the label that transformers' losses leave out


def encode(items: Iterable[Item], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Turn items into ``input_ids`` and ``labels`` whose only label is the answer.

    Raises:
        CircuitlapseError: If tokenizing prompt and answer together does not give the prompt's
            tokens followed by the answer's, so that the answer could not be told apart.
    """
    examples = []
    for item in items:
        prompt = tokenizer(item.prompt)["input_ids"]
        whole = tokenizer(item.prompt + item.answer)["input_ids"]
        if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            raise CircuitlapseError(
                "the answer's tokens cannot be separated from the prompt's",
                got=item.prompt + item.answer,
                fix="Begin the answer with a space, or end the prompt at a word's end",
            )
        labels = [IGNORED] * len(prompt) + whole[len(prompt) :]
        examples.append({"input_ids": whole, "labels": labels})
    return examples


def finetune(
    base: Path | str,
    items: Sequence[Item],
    save: Save,
    *,
    steps: int,
    save_every: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Fine-tune a model on items and hand over its checkpoints, from step 0 to the last.

    Full fine-tuning with AdamW (no weight decay), a constant learning rate and gradients clipped
    at norm 1, in the precision of the saved weights.

    Args:
        base: Directory or Hub name of the model and its tokenizer.
        items: What to train on, in any order; they are shuffled by ``seed`` and repeated as often
            as ``steps`` needs.
        save: Called with ``(step, model, tokenizer)`` at step 0, every ``save_every`` steps and
            at the last step.
        steps: Optimiser steps.
        save_every: Steps between checkpoints.
        learning_rate: Peak, and here also constant, learning rate.
        batch_size: Items per step.
        seed: Of the shuffling and of any dropout.
        device: ``auto`` takes an accelerator where there is one; ``cpu`` never does.
        progress: Called with ``(step, steps)`` after each step.
        callbacks: More callbacks for the trainer, called before those that save.

    Raises:
        CircuitlapseError: If there are no items, or an item cannot be encoded.
    """
    if not items:
        raise CircuitlapseError("there is nothing to fine-tune on", got="0 items")
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    vocabulary = _vocabulary(model)

    class Checkpoints(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            save(0, model, tokenizer)

        def on_step_end(self, args, state, control, **kwargs):
            step = state.global_step
            if step % save_every == 0 or step == steps:
                save(step, model, tokenizer)
            if progress is not None:
                progress(step, steps)

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            optim="adamw_torch",
            max_grad_norm=1.0,
            seed=seed,
            data_seed=seed,
            bf16=False,
            fp16=False,
            activation_checkpointing=False,
            use_cpu=device == "cpu" or (device == "auto" and not torch.cuda.is_available()),
            dataloader_pin_memory=torch.cuda.is_available() and device != "cpu",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(encode(items, tokenizer)),
            processing_class=tokenizer,
            callbacks=[*callbacks, Checkpoints()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    grown = _vocabulary(model)
    if grown != vocabulary:
        raise CircuitlapseError(
            "fine-tuning changed the size of the vocabulary", got=f"{vocabulary} -> {grown}"
        )


def _vocabulary(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return embedding.weight.shape[0]
