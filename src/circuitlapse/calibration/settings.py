"""How candidates are trained and measured."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """How candidates are trained and measured.

    Attributes:
        steps: Steps of a fine-tune, and most of one that ends when the task is learned.
        long_steps: Steps where heads start from nothing: erased heads and unused heads.
        lock_steps: Steps of training a lock.
        bits_steps: Most steps of a pass that measures bits.
        batch_size: Prompts per step.
        learning_rate: Constant rate of a fine-tune of all weights.
        part_rate: Constant rate where only some parts are trained.
        replay_fraction: Share of old-task prompts in a fine-tune.
        lock_replay_fraction: Share of old-task prompts in the training of a lock.
        learned_at: Where a fine-tune ends early, it does at this accuracy over the candidates.
        evaluate_every: Steps between two such evaluations.
        checked: Validation prompts for these, and for the figures of the checks.
        validation: Validation prompts per task, on which heads are chosen.
        test: Test prompts per task for the measures.
        answers: Test prompts per task and split for accuracies and the gain.
        n_groups: Random groups of heads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 240
    long_steps: int = 480
    lock_steps: int = 480
    bits_steps: int = 480
    batch_size: int = 32
    learning_rate: float = 1e-3
    part_rate: float = 3e-3
    replay_fraction: float = 0.1
    lock_replay_fraction: float = 0.5
    learned_at: float = 0.97
    evaluate_every: int = 8
    checked: int = 256
    validation: int = 128
    test: int = 128
    answers: int = 512
    n_groups: int = 19
