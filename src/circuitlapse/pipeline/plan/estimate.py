"""What a job will cost, before it is started: projected time, memory and disk.

The projection counts forward passes through a layer. One token through one layer takes the time of
its multiplications, at the speed that this machine reaches now on a matrix product, plus the
time of its memory traffic, which grows with the width only. It is meant to tell minutes from hours;
expect it to be off by half.
"""

from dataclasses import dataclass

from circuitlapse.config.experiment import Experiment

STEP_SECONDS = 0.02  # an optimiser step's overhead in the trainer
_PROMPT_TOKENS = 22  # the mean over the tasks' templates
_TRAFFIC = 5e-8  # seconds per token, layer and unit of width: 4 layers of width 64


@dataclass(frozen=True)
class Size:
    """The size of an experiment's model, in seconds on this machine and in MiB.

    Attributes:
        experiment: What would be run.
        layers: Of the model.
        heads: In a layer.
        width: Of the residual stream.
        vocabulary: Number of tokens.
        speed: Multiplications of a matrix product per second, on one thread.
        pretraining: Steps and batch size of the organism's recipe; zeros without one.
        n_variants: Counterfactual variants that are measured, by task.
    """

    experiment: Experiment
    layers: int
    heads: int
    width: int
    vocabulary: int
    speed: float
    pretraining: tuple[int, int]
    n_variants: dict[str, int]

    @property
    def forward(self) -> float:
        """Seconds of one prompt through all layers."""
        token_layer = 12 * self.width**2 / self.speed + _TRAFFIC * self.width
        return _PROMPT_TOKENS * self.layers * token_layer

    @property
    def unembed(self) -> float:
        """Seconds of one token's logits."""
        return self.width * self.vocabulary / self.speed

    @property
    def patch_all(self) -> float:
        """Seconds of patching all heads and MLPs of one prompt, half of the layers each."""
        return self.layers * (self.heads + 1) / 2 * self.forward

    @property
    def trained_row(self) -> float:
        """Seconds of one prompt in a training step."""
        return 3 * (self.forward + _PROMPT_TOKENS * self.unembed)

    @property
    def training(self) -> float:
        """Seconds of one fine-tune."""
        tune = self.experiment.finetune
        return tune.steps * (STEP_SECONDS + tune.batch_size * self.trained_row)

    @property
    def mib(self) -> float:
        """The model's weights in float32."""
        weights = self.layers * 12 * self.width**2 + self.width * (self.vocabulary + 1024)
        return weights * 4 / 2**20

    @property
    def scores(self) -> float:
        """MiB of one variant's edge scores and patching effects."""
        nodes = self.layers * (self.heads + 1)
        readers = self.layers * (3 * self.heads + 1) + 1
        prompts = self.experiment.measure.circuit_prompts
        return 4 * (3 * (nodes + 1) * readers + prompts * nodes) / 2**20

    def variants(self, task: str) -> int:
        """Counterfactual variants of a task that are measured."""
        return self.n_variants[task]
