"""What a notebook needs: run an experiment, and read a finished run. Imports no torch by itself."""

from circuitlapse.api.finished import Run, load_run
from circuitlapse.api.start import compare_models, comparison_out, run_experiment

__all__ = ["Run", "compare_models", "comparison_out", "load_run", "run_experiment"]
