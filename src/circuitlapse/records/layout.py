"""Where each artifact of a run lies, as paths inside the run's directory."""

from typing import TYPE_CHECKING

from circuitlapse.config.controls import RANDOM_SET
from circuitlapse.config.experiment import file_label
from circuitlapse.config.finetune import ONLY

if TYPE_CHECKING:
    from circuitlapse.pipeline.job import Job


FINETUNE = "finetune"
SEPARATION = "tasks/separation.json"


def checkpoint(training_run: str, step: int) -> str:
    """Path of a checkpoint's directory inside the run."""
    return f"checkpoints/{training_run}/step-{step:05d}"


def checkpoint_record(training_run: str, step: int) -> str:
    """Path of what is known of a checkpoint that stays where the user has it."""
    return f"{checkpoint(training_run, step)}.json"


def scores(training_run: str, step: int, task: str) -> str:
    """Path of what was measured of one task at one checkpoint."""
    return f"scores/{training_run}/step-{step:05d}/{file_label(task)}.safetensors"


def readings(training_run: str, step: int) -> str:
    """Path of what was read from one checkpoint."""
    return f"readings/{training_run}/step-{step:05d}.safetensors"


def half_readings(training_run: str) -> str:
    """Path of what was read from the base on either half of the prompts."""
    return f"readings/{training_run}/halves.safetensors"


def training(training_run: str) -> str:
    """Path of how a fine-tune went."""
    return f"training/{training_run}.json"


def restart(job: "Job") -> str:
    """Path of the state that an interrupted fine-tune goes on from; no artifact of the run."""
    return f".restart-{job.key[:16]}"


def patterns(training_run: str, step: int) -> str:
    """Path of one checkpoint's attention on example prompts."""
    return f"patterns/{training_run}/step-{step:05d}.safetensors"


def patching(training_run: str, step: int) -> str:
    """Path of what one checkpoint does when its sites are patched."""
    return f"patching/{training_run}/step-{step:05d}.safetensors"


def prompts(task: str, split: str) -> str:
    """Path of a task's items."""
    return f"tasks/{file_label(task)}.{split}.jsonl"


def placebo_use(kind: str) -> str:
    """Name of what a kind of placebo is trained on; that of shuffled answers is the fine-tune's."""
    return FINETUNE if kind == "shuffled_answers" else f"placebo-{kind.replace('_', '-')}"


OLD_HEADS = "controls/old-circuit.json"
FEW_SHOT = "controls/few-shot.json"


def curve(training_run: str, control: str, repeat: int = 0) -> str:
    """Path of the curve of a control fine-tune of ``training_run``, step by step."""
    return f"controls/{training_run}/{control_label(control, repeat)}.safetensors"


def control_label(control: str, repeat: int) -> str:
    """Name a control in paths: ``old-circuit``, ``random-set-03``, ``a1.h3-m1``."""
    label = control.replace("_", "-").replace(" ", "-")
    return f"{label}-{repeat:02d}" if control == RANDOM_SET else label


def carriers(training_run: str) -> str:
    """Path of the measures of what carries the new ability."""
    return f"scores/{training_run}/carriers.json"


def bits(recipe: str) -> str:
    """Path of all passes that count a recipe's bits."""
    return f"bits/{recipe}.json"


def bits_pass(recipe: str, which: str, order: int) -> str:
    """Path of one of these passes."""
    return f"bits/{recipe}/{which}-{order}.json"


def weights(training_run: str) -> str:
    """Path of what the weights of each part bring."""
    return f"scores/{training_run}/weights.json"


def verdict_path(recipe: str) -> str:
    """Path of a recipe's verdict inside the run."""
    return "verdict.json" if recipe == ONLY else f"verdicts/{recipe}.json"


def report_path(recipe: str) -> str:
    """Path of a recipe's report inside the run."""
    return "report.html" if recipe == ONLY else f"reports/{recipe}.html"
