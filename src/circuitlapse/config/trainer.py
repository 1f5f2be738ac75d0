"""Arguments of the trainer that a user may not set, with the reasons."""

from typing import Any

_OURS = {
    "learning_rate": "finetune.learning_rate",
    "optim": "finetune.optimizer",
    "lr_scheduler_type": "finetune.schedule",
    "max_steps": "finetune.steps",
    "num_train_epochs": "finetune.steps",
    "per_device_train_batch_size": "finetune.batch_size",
    "gradient_accumulation_steps": "finetune.gradient_accumulation",
    "seed": "finetune.seeds",
    "data_seed": "finetune.seeds",
    "use_cpu": "compute.device",
    "completion_only_loss": "finetune.preset",
    "assistant_only_loss": "finetune.preset",
}
_REASONS = {
    "finetune.save_at sets the checkpoints, and interrupted training resumes from them": (
        "output_dir save_strategy save_steps save_total_limit save_only_model "
        "resume_from_checkpoint restore_callback_states_from_checkpoint load_best_model_at_end "
        "ignore_data_skip enable_jit_checkpoint"
    ),
    "circuitlapse tokenises the prompts, so that no token is added, cut off or merged": (
        "max_length packing packing_strategy padding_free pad_token eos_token pad_to_multiple_of "
        "dataset_kwargs dataset_text_field chat_template_path truncation_mode "
        "remove_unused_columns"
    ),
    "checkpoints must hold the whole model": (
        "deepspeed fsdp fsdp_config model_init_kwargs use_liger_kernel"
    ),
    "the model is evaluated on held-out prompts at every checkpoint": (
        "do_eval eval_strategy eval_steps eval_on_start eval_delay"
    ),
    "circuitlapse sends nothing to the Hub": (
        "push_to_hub hub_model_id hub_token hub_strategy hub_private_repo hub_revision "
        "hub_always_push"
    ),
    "the same experiment must train on the same batches on every machine": "auto_find_batch_size",
    "circuitlapse shows the progress": "disable_tqdm",
}
_REJECTED = {name: reason for reason, names in _REASONS.items() for name in names.split()}


def check_trainer(trainer: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments.

    Raises:
        ValueError: Naming every argument that a user may not set.
    """
    faults = [f"`{name}` is set by {_OURS[name]}" for name in trainer if name in _OURS]
    faults += [f"`{name}`: {_REJECTED[name]}" for name in trainer if name in _REJECTED]
    if faults:
        raise ValueError("; ".join(faults))
    return trainer
