"""The public names for type checkers; a test compares them with ``__init__``."""

from circuitlapse.api.finished_run import Run as Run
from circuitlapse.api.finished_run import load_run as load_run
from circuitlapse.api.start import compare_models as compare_models
from circuitlapse.api.start import run_experiment as run_experiment
from circuitlapse.api.survey import survey as survey
from circuitlapse.attribution.edges import attribute as attribute
from circuitlapse.attribution.exact import project_exact as project_exact
from circuitlapse.attribution.neurons import neuron_scores as neuron_scores
from circuitlapse.attribution.scores import Scores as Scores
from circuitlapse.calibration.calibrate import calibrate as calibrate
from circuitlapse.circuits.completeness import Incompleteness as Incompleteness
from circuitlapse.circuits.completeness import completeness as completeness
from circuitlapse.circuits.completeness import greedy_completeness as greedy_completeness
from circuitlapse.circuits.completeness import random_sets as random_sets
from circuitlapse.circuits.curve import cmd as cmd
from circuitlapse.circuits.curve import cpr as cpr
from circuitlapse.circuits.curve import faithfulness_curve as faithfulness_curve
from circuitlapse.circuits.evaluate import CircuitEvaluation as CircuitEvaluation
from circuitlapse.circuits.evaluate import evaluate_circuit as evaluate_circuit
from circuitlapse.circuits.evaluate import evaluate_circuits as evaluate_circuits
from circuitlapse.circuits.mib import export_circuit as export_circuit
from circuitlapse.circuits.minimality import NodeMinimality as NodeMinimality
from circuitlapse.circuits.minimality import minimality as minimality
from circuitlapse.config.experiment import Experiment as Experiment
from circuitlapse.config.presets import demo_experiment as demo_experiment
from circuitlapse.config.toml import read_experiment as read_experiment
from circuitlapse.errors import CircuitlapseError as CircuitlapseError
from circuitlapse.models.engine.circuit import Circuit as Circuit
from circuitlapse.models.engine.circuit import Graph as Graph
from circuitlapse.models.engine.model import Model as Model
from circuitlapse.models.files.load import load_model as load_model
from circuitlapse.models.files.transformerlens import (
    export_transformerlens as export_transformerlens,
)
from circuitlapse.patching.node_effects import neuron_effects as neuron_effects
from circuitlapse.patching.node_effects import node_effects as node_effects
from circuitlapse.patching.patching import patch as patch
from circuitlapse.patching.paths import patch_paths as patch_paths
from circuitlapse.patching.paths import sweep_paths as sweep_paths
from circuitlapse.prompts.pairs import PromptPairs as PromptPairs
from circuitlapse.reading.attention import attention_between as attention_between
from circuitlapse.reading.attention import attention_patterns as attention_patterns
from circuitlapse.reading.direct import DirectAttribution as DirectAttribution
from circuitlapse.reading.direct import direct_logit_attribution as direct_logit_attribution
from circuitlapse.reading.heads import copying_scores as copying_scores
from circuitlapse.reading.heads import matching_scores as matching_scores
from circuitlapse.reading.lens import logit_lens as logit_lens
from circuitlapse.reading.repeats import RepeatScores as RepeatScores
from circuitlapse.reading.repeats import repeat_scores as repeat_scores
from circuitlapse.tasks.registry import get_task as get_task
from circuitlapse.tasks.task import Task as Task
from circuitlapse.tasks.tokenization import tokenize as tokenize

__version__: str
__all__: list[str]
